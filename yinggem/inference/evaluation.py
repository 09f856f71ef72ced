"""How well a model predicts a text: one full pass, every token after the first predicted exactly once.

Training validates with the same pieces: `yinggem.text.tokens.windows` cuts the text, `evaluate_batch` measures a batch,
and `Evaluation` adds up and makes the figures. torch is imported where a function needs it: other engines use the rest.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import astuple, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from yinggem.common.errors import UserError
from yinggem.common.progress_bar import show_progress
from yinggem.text.tokens.windows import Ids, counted_targets, cut_windows, evaluation_batches

if TYPE_CHECKING:
    from torch import Tensor

    from yinggem.model.transformer import Transformer

CONTEXT_LENGTH = 1024  # where a checkpoint does not say with how much it was trained
# Is told the targets (B, T) of a batch, the nats (B, T), float64, that they cost, and which count (None: all).
Hear = Callable[[np.ndarray, np.ndarray, np.ndarray | None], None]
METRICS = ("loss", "perplexity", "bits_per_byte")  # properties of Evaluation: a new one is a property and its name here


@dataclass(frozen=True)
class Evaluation:
    """Total nats over `tokens` predicted tokens, which stand for `bytes` bytes of UTF-8."""

    nats: float = 0.0
    tokens: int = 0
    bytes: int = 0

    def __add__(self, other: "Evaluation") -> "Evaluation":
        """Both texts together. The sum is Python's, float64: 10^9 tokens in float32 would lose the last ones."""
        return Evaluation(self.nats + other.nats, self.tokens + other.tokens, self.bytes + other.bytes)

    def to_tensor(self) -> "Tensor":
        """(3,) float64, to be added up over processes and read by `from_tensor`."""
        import torch

        return torch.tensor(astuple(self), dtype=torch.float64)

    @classmethod
    def from_tensor(cls, sums: "Tensor") -> "Evaluation":
        """The inverse of `to_tensor`."""
        nats, tokens, size = sums.tolist()
        return cls(nats, int(tokens), int(size))

    @property
    def loss(self) -> float:
        """Nats per token."""
        return self.nats / self.tokens

    @property
    def perplexity(self) -> float:
        """exp of the loss; infinite where that overflows."""
        return math.exp(self.loss) if self.loss < 700 else math.inf

    @property
    def bits_per_byte(self) -> float:
        """Total bits over total bytes, which is comparable across tokenizers; infinite for a text of no bytes."""
        return self.nats / math.log(2) / self.bytes if self.bytes else math.inf

    def to_dict(self) -> dict[str, float]:
        """The metrics and what they were measured on."""
        return self.metrics() | {"tokens": self.tokens, "bytes": self.bytes}

    def metrics(self) -> dict[str, float]:
        """The figures under the names they are logged by, after "val/"."""
        return {name: getattr(self, name) for name in METRICS}


def evaluate_batch(
    model: "Transformer", inputs: "Tensor", targets: "Tensor", token_bytes: "Tensor", counted: "Tensor | None" = None
) -> Evaluation:
    """Measure the predictions of one batch of windows.

    Args:
        inputs, targets: (B, T) ids.
        token_bytes: (V,) UTF-8 bytes each id stands for, on the device of the targets.
        counted: (B, T) booleans, the targets that count; None: all.
    """
    nats = model.loss(inputs, targets, "sum", counted).item()
    targets = targets if counted is None else targets[counted]
    return Evaluation(nats, targets.numel(), int(token_bytes[targets].sum()))


def evaluate(
    model: "Transformer", ids: Ids, token_bytes: np.ndarray, context_length: int, batch_size: int = 8,
    hear: Hear | None = None,
) -> Evaluation:  # fmt: skip
    """Predict ids[1:] in consecutive windows of `context_length` targets, the last one as short as it comes.

    Args:
        model: in eval mode.
        ids: (N,) integers, N >= 2.
        token_bytes: (V,) UTF-8 bytes each id stands for.
        hear: is told of every token in its order.

    Raises:
        UserError: there is nothing to predict.
    """
    import torch

    device, total = model.norm.weight.device, Evaluation()
    with torch.inference_mode():
        lengths = torch.from_numpy(token_bytes.astype(np.int64)).to(device)
        for rows, counted in evaluation_rows(ids, context_length, batch_size):
            block = torch.from_numpy(rows).to(device)
            counts = None if counted is None else torch.from_numpy(counted).to(device)
            if hear is None:
                total += evaluate_batch(model, block[:, :-1], block[:, 1:], lengths, counts)
                continue
            nats = model.loss(block[:, :-1], block[:, 1:], "none").cpu().double().numpy()
            hear(rows[:, 1:], nats, counted)
            total += counted_up(rows[:, 1:], nats, token_bytes, counted)
    return total


def counted_up(
    targets: np.ndarray, nats: np.ndarray, token_bytes: np.ndarray, counted: np.ndarray | None
) -> Evaluation:
    """Of targets (B, T) that cost nats (B, T), those that count (B, T); None: all."""
    if counted is not None:
        targets, nats = targets[counted], nats[counted]
    return Evaluation(float(nats.sum()), targets.size, int(token_bytes[targets].sum(dtype=np.int64)))


def evaluation_rows(ids: Ids, context_length: int, batch_size: int) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
    """The windows of a full pass in batches (B, T + 1), with a progress bar, and as `counted_targets` which count.

    Raises:
        UserError: nothing is to predict.
    """
    if len(ids) < 2:
        raise UserError(f"A text of {len(ids)} tokens holds nothing to predict; evaluate on a longer one.")
    with show_progress("Evaluating", len(ids) - 1) as advance:
        for windows in evaluation_batches(len(ids), context_length, batch_size):
            rows = cut_windows(ids, windows)
            yield rows, counted_targets(ids, windows, rows)
            advance(rows[:, 1:].size)


def trained_context_length(entry: dict[str, Any]) -> int:
    """Tokens per window of the run's own evaluations, as the checkpoint's "yinggem" entry says."""
    length = entry.get("context_length", CONTEXT_LENGTH)
    if not isinstance(length, int) or not 1 <= length <= 1 << 24:
        raise UserError(f"The checkpoint has an impossible context length of {str(length)[:40]}; set --context-length.")
    return length
