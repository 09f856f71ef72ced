"""Evaluate a checkpoint on a text: by default the validation split that it was trained with."""

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from yinggem.common.command_line import Parser, number, whole_number
from yinggem.common.errors import UserError
from yinggem.common.files import check_file_replaceable, write_atomically
from yinggem.inference.checkpoint import load_model
from yinggem.inference.counting import evaluate_with_counting
from yinggem.inference.document_scores import DocumentScores
from yinggem.inference.evaluation import evaluate, trained_context_length
from yinggem.inference.files.stored_model import read_model
from yinggem.inference.language_model import LanguageModel
from yinggem.inference.networks.device import choose_device
from yinggem.inference.networks.torch_network import TorchNetwork
from yinggem.inference.pages.self_contained import MARK
from yinggem.inference.pages.surprise_page import page_of_ids
from yinggem.inference.starter import memory_of
from yinggem.memory.ngram_memory import COUNTED_TOKENS, NgramMemory
from yinggem.model.config import QUANTIZATIONS
from yinggem.runs.layout import find_model
from yinggem.text.corpus import NAMED
from yinggem.text.files.formats import has_rows
from yinggem.text.reading import Reading
from yinggem.text.splitting import TokenizedSplit
from yinggem.text.text_record import TextRecord, open_recorded_text
from yinggem.text.tokens.token_array import TokenArray

NAMED_OF_AN_END = 3  # documents; --json has more
SHOWN = 60  # characters of each


def evaluation_parser() -> argparse.ArgumentParser:
    """The options of `yinggem evaluate`."""
    parser = Parser("yinggem evaluate", description="Evaluate a checkpoint on a text.", allow_abbrev=False)
    add = parser.add_argument
    # fmt: off
    add("--checkpoint", metavar="PLACE", help="a file or a run folder; default: the newest run's best, under outputs/")
    add("--data", metavar="NAME",
        help="shakespeare, tinyshakespeare, or a path to text (default: the text of the run)")
    add("--data-path", metavar="FILE", help="where tinyshakespeare is, if not in the cache")
    add("--split", choices=("val", "train", "test", "all"),
        help="part of the text (default: val; all with --html and --data)")
    add("--split-by", choices=("characters", "tokens"), help="where the split is cut (default: as in the run)")
    add("--val-fraction", type=number, metavar="X",
        help="share of the validation split, the end of the text (default: as in the run, or 0.1)")
    add("--context-length", type=whole_number(1), metavar="N", help="tokens per window (default: as in the run)")
    add("--batch-size", type=whole_number(1), default=8, metavar="N", help="windows at once (default: 8)")
    add("--adaptive", action="store_true", help="count what was read of the split with the training text")
    add("--quantize", choices=QUANTIZATIONS, help="turn the weights into integers of 8 or 4 bits first")
    add("--device", metavar="NAME", help="cpu, cuda, mps ... (default: the fastest there is)")
    add("--html", metavar="FILE", help="write a page on which every token is tinted by its surprise")
    add("--json", action="store_true", help="print one JSON object")
    # fmt: on
    return parser


def main(arguments: list[str] | None = None) -> None:
    """Load, tokenize, evaluate, print."""
    options = evaluation_parser().parse_args(arguments)
    if options.html:
        check_file_replaceable(options.html, MARK, "yinggem evaluate")
    options.split = options.split or ("all" if options.html and options.data else "val")
    path, said = find_model(options.checkpoint)
    if said:
        print(f"note: {said}", file=sys.stderr)
    device, stored = choose_device(options.device), read_model(path)
    model, tokenizer = load_model(path, device, quantization=options.quantize, stored=stored)
    entry = stored.entry
    text = text_to_evaluate(options, entry)
    context_length = options.context_length or trained_context_length(entry)
    split, notes = open_recorded_text(text, tokenizer)
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
    if text.source == "streaming" and options.split != "val":
        raise UserError(f"--split {options.split} is for texts; of token shards only the validation part is evaluated.")
    ids = ids_of(split, options.split)
    kept = memory_of(stored)
    memory = memory_to_compare(options, kept, split)
    if options.adaptive and memory is None:
        raise UserError("--adaptive adds what counting reaches, which is measured on validation text alone.")
    about_text = (model, ids, split.token_bytes, context_length, options.batch_size)
    documents = DocumentScores(tokenizer) if tokenizer.end_id is not None else None
    hear = documents.add if documents else None
    if memory is None:
        figures: dict[str, Any] = evaluate(*about_text, hear).to_dict()
    else:
        figures = evaluate_with_counting(*about_text, memory, options.adaptive, hear).to_dict()
    if options.html:
        scored_by = LanguageModel(TorchNetwork(model, "evaluate"), tokenizer, context_length, kept)
        write_atomically(options.html, page_of_ids(text.name, scored_by, ids).encode())
        print(f"Written: {options.html}", file=sys.stderr)
    if options.json:
        settings = {"val_fraction": text.val_fraction, "split_by": text.split_by, "context_length": context_length}
        about = {"checkpoint": str(path), "data": text.name, "split": options.split, **settings}
        told = {"documents": documents.to_dict()} if documents else {}
        print(json.dumps(about | figures | told | {"notes": notes}))
        return
    print(f"{'text':14} {text.name}, {described_split(text, options.split)}")
    print("\n".join(described(figures, documents)))


def described(figures: dict[str, Any], documents: DocumentScores | None) -> list[str]:
    """The figures, and of documents how many there are and those that were predicted worst and best."""
    lines = [
        f"{name:14} {value:,.4f}" if isinstance(value, float) else f"{name:14} {value:,}"
        for name, value in figures.items()
    ]
    if documents is None:
        return lines
    how = ", predicted by both together" if "together_loss" in figures else ""
    lines.append(f"{'documents':14} {documents.count:,}{how}")
    for name, end in zip(("worst", "best"), documents.ends(), strict=True):
        lines += [
            f"  {name:12} {one.bits_per_byte:.4f} bits per byte: document {one.number:,}, {one.text[:SHOWN]}"
            for one in end[:NAMED_OF_AN_END]
        ]
    return lines


def ids_of(split: TokenizedSplit, name: str) -> TokenArray:
    """The tokens of a part of a text; UserError where it has no such part."""
    if name == "all":
        return split.train + split.val + (split.test or TokenArray([], split.val.dtype))
    ids: TokenArray | None = getattr(split, name)
    if ids is None:
        raise UserError("The run kept no test split; train with data.test_fraction=X, or evaluate another split.")
    return ids


def memory_to_compare(
    options: argparse.Namespace, memory: NgramMemory | None, split: TokenizedSplit
) -> NgramMemory | None:
    """What counting knows of the training text: from the checkpoint, or from the text of the run.

    None for text that may have been counted itself, and where the training text is not at hand.
    """
    if options.split not in ("val", "test"):
        return None
    if memory is None and options.data is None and len(split.train):
        memory = NgramMemory(split.train[-COUNTED_TOKENS:], len(split.token_bytes))
    return memory


def text_to_evaluate(options: argparse.Namespace, entry: dict[str, Any]) -> TextRecord:
    """The text that is named, else the checkpoint's; what is not typed is as in the checkpoint.

    Args:
        entry: the "yinggem" entry of the checkpoint; those of earlier versions do not know their text.
    """
    trained = TextRecord.from_dict(entry["data"]) if "data" in entry else TextRecord("")
    source, path, fingerprint = trained.source or "shakespeare", trained.path, trained.fingerprint
    if options.data is not None:
        source, path = (options.data, None) if options.data in NAMED else ("text", options.data)
    elif not trained.source:
        print("note: This checkpoint does not say which text it was trained on.", file=sys.stderr)
    if options.data is not None or options.data_path is not None:
        path, fingerprint = options.data_path or path, ""
    fraction = trained.val_fraction if options.val_fraction is None else options.val_fraction
    how = fraction, options.split_by or trained.split_by, fingerprint, trained.test_fraction
    return TextRecord(source, path, *how, reading_of(trained.reading, path if options.data is not None else None))


def reading_of(trained: Reading, path: str | None) -> Reading:
    """How a text is read: as that of the run; another one without rows, where that has some, file by file."""
    if path is None or not trained.needs_rows or has_rows(Path(path)):
        return trained
    return replace(trained, documents="files", format=None)


def described_split(text: TextRecord, split: str) -> str:
    """The part of a text in words."""
    if split == "all" or text.source == "streaming":
        return {"all": "all of it", "val": "its validation part"}[split]
    unit = "characters, by whole documents" if text.reading.has_documents else text.split_by
    shares = {"val": text.val_fraction, "test": text.test_fraction, "train": 1 - text.val_fraction - text.test_fraction}
    places = {"val": "last" if not text.test_fraction else "next to last", "test": "last", "train": "first"}
    return f"{split}: the {places[split]} {shares[split] * 100:g} % of its {unit}"
