"""How well a model predicts a text: one full pass, every token after the first predicted exactly once.

python -m yinggem.evaluate --checkpoint FILE --data shakespeare
"""

import argparse
import json
import sys
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from yinggem.checkpoint import find_checkpoint, load_model, read_checkpoint
from yinggem.cli import Parser, choose_device, run, whole
from yinggem.config import QUANTIZATIONS
from yinggem.corpus import open_corpus, tokenize
from yinggem.errors import UserError
from yinggem.loss import bits_per_byte, next_token_loss, perplexity
from yinggem.token_array import TokenArray
from yinggem.transformer import Transformer
from yinggem.waiting import waiting

CONTEXT_LENGTH = 1024  # where a checkpoint does not say with how much it was trained


@dataclass(frozen=True)
class Evaluation:
    """Total nats over `tokens` predicted tokens, which stand for `bytes` bytes of UTF-8."""

    nats: float
    tokens: int
    bytes: int

    def to_dict(self) -> dict[str, float]:
        """The figures under the names they are logged by."""
        loss = self.nats / self.tokens
        figures = {"loss": loss, "perplexity": perplexity(loss), "bits_per_byte": bits_per_byte(self.nats, self.bytes)}
        return figures | {"tokens": self.tokens, "bytes": self.bytes}


@torch.inference_mode()
def evaluate(
    model: Transformer, ids: np.ndarray | TokenArray, token_bytes: np.ndarray, context_length: int, batch_size: int = 8
) -> Evaluation:
    """Predict ids[1:] in consecutive windows of `context_length` targets, the last one as short as it comes.

    Args:
        model: in eval mode.
        ids: (N,) integers, N >= 2.
        token_bytes: (V,) UTF-8 bytes each id stands for.

    Raises:
        UserError: there is nothing to predict.
    """
    count = len(ids) - 1
    if count < 1:
        raise UserError(f"A text of {len(ids)} tokens holds nothing to predict; evaluate on a longer one.")
    device, total, size = model.norm.weight.device, 0.0, 0
    step = context_length * batch_size
    with waiting("Evaluating", count) as advance:
        for start in range(0, count, step):
            block = torch.from_numpy(ids[start : min(start + step, count) + 1].astype(np.int64)).to(device)
            size += int(token_bytes[ids[start + 1 : start + len(block)]].sum(dtype=np.int64))
            total += _nats(model, block, context_length)
            advance(len(block) - 1)
    return Evaluation(total, count, size)


def _nats(model: Transformer, block: torch.Tensor, context_length: int) -> float:
    """Nats of block[1:], (N,) ids, in windows of `context_length` targets and a shorter last one."""
    count = len(block) - 1
    whole_windows, nats = count // context_length * context_length, 0.0
    for first, last, width in ((0, whole_windows, context_length), (whole_windows, count, count - whole_windows)):
        if first < last:
            inputs, targets = (block[first + k : last + k].view(-1, width) for k in (0, 1))
            hidden = model.hidden(inputs)
            nats += next_token_loss(hidden, model.head_weight, targets, model.head_bias, reduction="sum").item()
    return nats


def evaluation_parser() -> argparse.ArgumentParser:
    """The options of `python -m yinggem.evaluate`."""
    parser = Parser("python -m yinggem.evaluate", description="Evaluate a checkpoint on a text.", allow_abbrev=False)
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
    add("--context-length", type=whole(1), metavar="N", help="tokens per window (default: as in the run)")
    add("--batch-size", type=whole(1), default=8, metavar="N", help="windows at once (default: 8)")
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


if __name__ == "__main__":
    sys.exit(run(main))
