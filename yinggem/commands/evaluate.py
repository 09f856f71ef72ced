"""Say how well a checkpoint predicts a text: yinggem evaluate --checkpoint FILE --data shakespeare"""

import argparse
import json
from typing import Any

from yinggem.common.command_line import Parser, whole_number
from yinggem.common.errors import UserError
from yinggem.inference.checkpoint import load_model, read_checkpoint
from yinggem.inference.device import choose_device
from yinggem.inference.evaluation import evaluate
from yinggem.model.config import QUANTIZATIONS
from yinggem.runs.layout import find_checkpoint
from yinggem.text.corpus import open_corpus, tokenize

CONTEXT_LENGTH = 1024  # where a checkpoint does not say with how much it was trained


def evaluation_parser() -> argparse.ArgumentParser:
    """The options of `python -m yinggem evaluate`."""
    parser = Parser("python -m yinggem evaluate", description="Evaluate a checkpoint on a text.", allow_abbrev=False)
    add = parser.add_argument
    add("--checkpoint", metavar="FILE", help="default: the newest run's best, under outputs/")
    add("--data", default="shakespeare", metavar="NAME", help="shakespeare, tinyshakespeare, or a path to text")
    add("--data-path", metavar="FILE", help="where tinyshakespeare is, if not in the cache")
    add(
        "--split",
        choices=("val", "train", "all"),
        default="val",
        help="part of the text (default: val, the last 10 %%)",
    )
    add("--split-by", choices=("characters", "tokens"), default="characters", help="where the split is cut")
    add("--val-fraction", type=float, default=0.1, metavar="X", help="share of the validation split (default: 0.1)")
    add("--context-length", type=whole_number(1), metavar="N", help="tokens per window (default: as in the run)")
    add("--batch-size", type=whole_number(1), default=8, metavar="N", help="windows at once (default: 8)")
    add("--quantize", choices=QUANTIZATIONS, help="turn the weights into integers of 8 or 4 bits first")
    add("--device", metavar="NAME", help="cpu, cuda, mps ... (default: the fastest there is)")
    add("--json", action="store_true", help="print one JSON object")
    return parser


def main(arguments: list[str] | None = None) -> None:
    """Load, tokenize, evaluate, print."""
    options = evaluation_parser().parse_args(arguments)
    path = options.checkpoint or find_checkpoint()
    model, tokenizer = load_model(path, choose_device(options.device), quantization=options.quantize)
    named = options.data in ("shakespeare", "tinyshakespeare")
    corpus = open_corpus(options.data if named else "text", options.data_path if named else options.data)
    split = tokenize(corpus, tokenizer, None, options.val_fraction, options.split_by)
    ids = split.train + split.val if options.split == "all" else getattr(split, options.split)
    context_length = options.context_length or trained_context_length(read_checkpoint(path))
    figures = evaluate(model, ids, split.token_bytes, context_length, options.batch_size).to_dict()
    if options.json:
        print(json.dumps({"checkpoint": str(path), "data": options.data, "split": options.split, **figures}))
        return
    for name, value in figures.items():
        print(f"{name:14} {value:,.4f}" if isinstance(value, float) else f"{name:14} {value:,}")


def trained_context_length(checkpoint: dict[str, Any]) -> int:
    """Tokens per window of the run's own evaluations, as the checkpoint says."""
    length = checkpoint["yinggem"].get("context_length", CONTEXT_LENGTH)
    if not isinstance(length, int) or not 1 <= length <= 1 << 24:
        raise UserError(f"The checkpoint names a context length of {str(length)[:40]}; give --context-length.")
    return length
