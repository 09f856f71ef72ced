"""How well a model predicts a text: one full pass, every token after the first predicted exactly once."""

from dataclasses import dataclass

import numpy as np
import torch

from yinggem.common.errors import UserError
from yinggem.common.progress_bar import show_progress
from yinggem.model.loss import bits_per_byte, next_token_loss, perplexity
from yinggem.model.transformer import Transformer
from yinggem.text.token_array import TokenArray


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
    with show_progress("Evaluating", count) as advance:
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
