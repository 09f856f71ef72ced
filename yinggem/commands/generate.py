"""Generate text from a checkpoint.

The checkpoint is all it needs: neither Hydra nor Lightning.
"""

import argparse
import re
import sys
from argparse import Namespace
from dataclasses import fields
from typing import Any

from yinggem.commands.output.sample_output import print_objects, print_text, sampling_of, show
from yinggem.common.command_line import Parser, number, whole_number
from yinggem.common.errors import UserError
from yinggem.common.program import typed
from yinggem.inference.sampling import MAX_NEW_TOKENS, Sampling
from yinggem.model.config import QUANTIZATIONS

MAX_PROMPT_BYTES = 1 << 28  # /dev/zero has no end


def main(arguments: list[str] | None = None) -> None:
    """Check the arguments, load the model, generate."""
    options = parse_generation(arguments)
    from yinggem.inference.copying import TrainingText  # numpy takes a while: not for --help
    from yinggem.inference.files.stored_model import read_model
    from yinggem.inference.networks.opening import open_network
    from yinggem.inference.starter import memory_of
    from yinggem.runs.layout import find_model

    path, said = find_model(options.checkpoint)
    options.checkpoint, stored = str(path), read_model(path)
    network = open_network(stored, options.device, options.quantize, lend=not options.interactive)
    tokenizer = stored.tokenizer
    if said:
        print(f"note: {said}", file=sys.stderr)
    if options.verbose:
        print(f"engine: {network.about}", file=sys.stderr)
    options.counts = memory_of(stored)
    needs_text = options.max_copy is not None or options.mark_copies or options.stats
    options.training = TrainingText(options.counts, tokenizer) if needs_text else None
    show_samples = converse if options.interactive else print_objects if options.json else print_text
    show_samples(network, tokenizer, options)


def converse(network: Any, tokenizer: Any, options: Namespace) -> None:
    """At a terminal write one text in turns; else continue each line on its own. Ctrl-C ends a text; Ctrl-D leaves."""
    if sys.stdin.isatty() and sys.stdout.isatty():
        from yinggem.commands.output.history import LineHistory, default_place
        from yinggem.commands.output.terminal import Terminal

        place = None if options.no_history else default_place()
        history = LineHistory(place) if place else None
        Terminal(network, tokenizer, options, sampling_of(options, tokenizer.name), show, history).run()
        return
    try:
        while True:
            options.prompt = input("> ")
            try:
                print_text(network, tokenizer, options)
            except UserError as error:
                show(f"error: {error}\n")
            except KeyboardInterrupt:
                show("\n")
    except (EOFError, KeyboardInterrupt):
        show("\n")


def generation_parser() -> Parser:
    """The options of generate.py."""
    parser = Parser(typed("generate"), description="Generate text from a checkpoint.", allow_abbrev=False)
    add = parser.add_argument
    add(
        "--checkpoint",
        metavar="PLACE",
        help="a file, a run folder, or starter; default: the newest run's best, under outputs/",
    )
    prompt = parser.add_mutually_exclusive_group()
    prompt.add_argument("--prompt", default="", metavar="TEXT", help="text to continue; empty starts from a newline")
    prompt.add_argument("--prompt-file", metavar="FILE", help="a UTF-8 file with the text to continue")
    # fmt: off
    add("--max-new-tokens", type=whole_number(1), default=MAX_NEW_TOKENS, metavar="N",
        help="length of a sample (default: %(default)s)")
    for one in fields(Sampling):
        kind = (whole_number(0), "N") if one.metadata["whole"] else (number, "X")
        default = None if one.name == "repetition_penalty" else one.default  # it depends on the tokenizer
        known = "" if one.default is None else f" (default: {one.default})"
        add(f"--{one.name.replace('_', '-')}", type=kind[0], metavar=kind[1], default=default,
            help=one.metadata["help"] + known)
    add("--stop", type=with_escapes, action="append", default=[], metavar="TEXT",
        help=r"end a sample before this text; \n in it is a line end, \t a tab, \\ a backslash; repeatable")
    add("--ignore-end", action="store_true", help="go on with another document where the model ends one")
    add("--num-samples", type=whole_number(1, 4096), default=1, metavar="N",
        help="samples with seeds SEED, SEED + 1, ...")
    add("--seed", type=whole_number(0, 1 << 62), default=0, metavar="N", help="another seed, another text (default: 0)")
    add("--quantize", choices=QUANTIZATIONS, help="weights of 8 or 4 bits: less memory, and faster on x86 processors")
    add("--device", metavar="NAME", help="cpu, cuda, cuda:1, mps ... (default: the fastest there is for its size)")
    add("--memory", type=number, metavar="X",
        help="how much what counting knows is believed: 0 is the network alone, 2 the most (default: 1, as fitted)")
    add("--max-copy", type=copy_length, metavar="N",
        help="repeat at most N words of the training text in a row; 40c: at most 40 characters")
    add("--mark-copies", action="store_true", help="mark what stands in the training text, from 8 words on")
    add("--stats", action="store_true", help="words that the training text lacks, repetitions, the longest copy")
    add("--interactive", action="store_true", help="ask for prompts; /quit or Ctrl-D leaves")
    add("--no-history", action="store_true", help="keep no typed lines for the next --interactive")
    add("--json", action="store_true", help="print one JSON object per sample")
    add("--logprobs", type=whole_number(0, 100), metavar="N",
        help="tell how likely each token was, and the N likeliest")
    add("--verbose", action="store_true", help="say first what computes the text, and why")
    # fmt: on
    return parser


def copy_length(text: str) -> str:
    """An argparse type: a number of words, or of characters as in 40c."""
    from yinggem.memory.stretches import Length  # numpy takes a while: not for --help

    try:
        Length.of(text)
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error).removeprefix("max_copy ").rstrip(".")) from None
    return text


def with_escapes(text: str) -> str:
    r"""An argparse type: text in which \n, \t and \\ stand for what a shell has no easy way to type."""
    meant = {"n": "\n", "t": "\t", "\\": "\\"}
    return re.sub(r"\\([nt\\])", lambda found: meant[found[1]], text)


def parse_generation(arguments: list[str] | None = None) -> argparse.Namespace:
    """Parse and check the options of generate.py; `prompt` holds the file's text where a file is named.

    Raises:
        SystemExit: status 2, or 0 after --help.
        UserError: a value is out of range or the prompt file cannot be read.
    """
    options = generation_parser().parse_args(arguments)
    sampling_of(options)
    if not all(options.stop):
        raise UserError("--stop must not be empty; leave it out to generate to the full length.")
    if options.interactive and (options.json or options.prompt or options.prompt_file):
        raise UserError("--interactive asks for prompts itself; leave out --prompt, --prompt-file and --json.")
    if options.prompt_file is not None:
        options.prompt = read_text(options.prompt_file)
    return options


def read_text(path: str) -> str:
    """A UTF-8 file's text, without a byte order mark and with every line end `\\n`, as texts are trained on."""
    try:
        with open(path, "rb") as file:
            content = file.read(MAX_PROMPT_BYTES + 1)
        if len(content) > MAX_PROMPT_BYTES:
            raise UserError(f"{path} is longer than {MAX_PROMPT_BYTES >> 20} MB; name a shorter text.")
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text (byte {error.start}); convert it, or name another file.") from None
    except UserError:
        raise
    except (OSError, ValueError) as error:
        raise UserError(
            f"Cannot read {path} ({getattr(error, 'strerror', None) or error}); name a text file."
        ) from None
    return text.replace("\r\n", "\n").replace("\r", "\n")
