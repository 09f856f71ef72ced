"""A text as the network predicts it, as counting alone does, and as both together do, in the same windows."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from yinggem.common.errors import UserError
from yinggem.inference.evaluation import Evaluation, Hear, counted_up, evaluation_rows
from yinggem.memory.ngram_memory import NgramMemory
from yinggem.model.transformer import Transformer
from yinggem.text.tokens.windows import Ids

MOST_ADAPTIVE = 1 << 24  # tokens that are counted in one piece


@dataclass(frozen=True)
class Comparison:
    """Three evaluations of the same tokens."""

    network: Evaluation = field(default_factory=Evaluation)
    counting: Evaluation = field(default_factory=Evaluation)
    together: Evaluation = field(default_factory=Evaluation)

    def __add__(self, other: "Comparison") -> "Comparison":
        return Comparison(self.network + other.network, self.counting + other.counting, self.together + other.together)

    def to_dict(self) -> dict[str, Any]:
        """The network's figures under their names, and beside them what counting and both together reach."""
        beside = {"counting": self.counting, "together": self.together}
        kinds = ("loss", "bits_per_byte")
        figures = {f"{who}_{kind}": getattr(one, kind) for who, one in beside.items() for kind in kinds}
        return self.network.to_dict() | figures


@torch.inference_mode()
def evaluate_with_counting(
    model: Transformer,
    ids: Ids,
    token_bytes: np.ndarray,
    context_length: int,
    batch_size: int,
    memory: NgramMemory,
    adaptive: bool = False,
    hear: Hear | None = None,
) -> Comparison:
    """As `yinggem.inference.evaluation.evaluate`, by the network, by counting, and by both.

    Args:
        memory: of the training text; what stands before a token in its window is counted as well.
        adaptive: count all that stands before a token in `ids`, as compressors do, and not its window alone. The
            network reads windows all the same.
        hear: is told of every token in its order, by both together.

    Raises:
        UserError: there is nothing to predict; `adaptive` with more than MOST_ADAPTIVE tokens.
    """
    if adaptive and len(ids) > MOST_ADAPTIVE:
        raise UserError(f"--adaptive counts up to {MOST_ADAPTIVE:,} tokens, and these are {len(ids):,}; leave it out.")
    device, total, pieces, marks = model.norm.weight.device, Comparison(), [], []
    for rows, counted in evaluation_rows(ids, context_length, batch_size):
        block = torch.from_numpy(rows).to(device)
        nats = model.loss(block[:, :-1], block[:, 1:], reduction="none").cpu().double().numpy()
        if adaptive:
            pieces.append(nats.ravel())
            marks += [] if counted is None else [counted.ravel()]
        else:
            total += compared(rows, nats, token_bytes, memory, counted, hear)
    if not adaptive:
        return total
    together = np.concatenate(marks)[None] if marks else None
    return compared(ids[:][None], np.concatenate(pieces)[None], token_bytes, memory, together, hear)


def compared(
    rows: np.ndarray,
    nats: np.ndarray,
    token_bytes: np.ndarray,
    memory: NgramMemory,
    counted: np.ndarray | None = None,
    hear: Hear | None = None,
) -> Comparison:
    """Of rows[:, 1:] in `rows` (B, T + 1) of ids.

    Args:
        nats: (B, T) float64, the network's.
        counted: (B, T) booleans, the targets that count; None: all.
        hear: is told of them, by both together.
    """
    alone, together = memory.score(rows, nats)
    if hear:
        hear(rows[:, 1:], together, counted)
    return Comparison(*(counted_up(rows[:, 1:], each, token_bytes, counted) for each in (nats, alone, together)))
