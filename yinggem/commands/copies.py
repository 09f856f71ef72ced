"""Find what a text has copied from a training text: yinggem copies FILE"""

import json
from collections.abc import Iterator
from pathlib import Path

from yinggem.commands.generate import copy_length, read_text
from yinggem.common.command_line import Parser
from yinggem.common.errors import UserError
from yinggem.common.progress_bar import show_progress
from yinggem.inference.copying import TrainingText
from yinggem.inference.files.stored_model import read_model
from yinggem.memory.copies import LEAST, Copies, find_copies
from yinggem.memory.stretches import Length
from yinggem.runs.layout import find_checkpoint
from yinggem.text.corpus import NAMED, open_corpus

SHOWN = 60  # characters of a copy


def copies_parser() -> Parser:
    """The options of `yinggem copies`."""
    parser = Parser("yinggem copies", description="Find what a text has copied from a training text.",
                    allow_abbrev=False)  # fmt: skip
    add = parser.add_argument
    add("file", metavar="FILE", help="a UTF-8 text")
    place = parser.add_mutually_exclusive_group()
    place.add_argument("--checkpoint", metavar="PLACE",
        help="a file or a run folder with memory=ngram; default: the newest run's best, under outputs/")  # fmt: skip
    place.add_argument("--data", metavar="PATH", help=f"a training text: {', '.join(NAMED)}, or a path to text")
    add("--least", type=copy_length, default=str(LEAST.count), metavar="N",
        help="the shortest copy: N words, or characters as in 40c (default: %(default)s)")  # fmt: skip
    add("--json", action="store_true", help="print one JSON object")
    return parser


def main(arguments: list[str] | None = None) -> None:
    """Read, compare, print.

    Raises:
        UserError: FILE or the training text cannot be read, or the checkpoint does not hold its training text.
    """
    options = copies_parser().parse_args(arguments)
    text, least = read_text(options.file), Length.of(options.least, "--least")
    training = text_at(options.data) if options.data is not None else text_of(options.checkpoint)
    found = find_copies(text, training, least)
    if options.json:
        print(json.dumps(record(options.file, text, found), ensure_ascii=False))
        return
    count, unit = len(found.stretches), "characters" if least.characters else "words"
    print(f"{options.file}: {count} {'copy' if count == 1 else 'copies'} of at least {least}; the longest has "
          f"{found.longest} {unit}; {found.share:.1%} of the runs of {least} stand in the training text")  # fmt: skip
    for copy, line in zip(found.stretches, lines_of(text, found), strict=True):
        print(f"line {line}, {Length(copy.length, least.characters)}: {shortened(text[copy.start : copy.end])}")


def text_of(place: str | None) -> Iterator[str]:
    """The training text that a checkpoint carries."""
    path = find_checkpoint(place)
    stored = read_model(path)
    return TrainingText(stored.memory, stored.tokenizer).chunks()


def text_at(name: str) -> Iterator[str]:
    """A text by its name or path, whole."""
    try:
        corpus = open_corpus(name) if name in NAMED else open_corpus("text", name)
    except UserError as error:
        raise UserError(str(error).replace("data.path=", "--data ")) from None
    with show_progress("Comparing", corpus.characters) as advance:
        for chunk in corpus.iter_text():
            yield chunk
            advance(len(chunk))


def record(file: str, text: str, found: Copies) -> dict[str, object]:
    """What --json prints: `start` and `end` count characters, `line` counts from 1."""
    unit = "characters" if found.least.characters else "words"
    copies = [
        {"line": line, "start": copy.start, "end": copy.end, unit: copy.length, "text": text[copy.start : copy.end]}
        for copy, line in zip(found.stretches, lines_of(text, found), strict=True)
    ]
    figures = {"longest_copy": found.longest, "share": found.share, "least": str(found.least)}
    return {"file": str(Path(file)), **figures, "copies": copies}


def lines_of(text: str, found: Copies) -> Iterator[int]:
    """The line that each copy begins in."""
    line, place = 1, 0
    for copy in found.stretches:
        line += text.count("\n", place, copy.start)
        place = copy.start
        yield line


def shortened(text: str) -> str:
    """A copy on one line."""
    text = " ".join(text.split())
    return text if len(text) <= SHOWN else f"{text[: SHOWN // 2].rstrip()} ... {text[-SHOWN // 2 :].lstrip()}"
