"""Next-token cross-entropy from hidden states, and the two figures people read it in."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

CHUNK = 256  # rows of logits that exist at once


def next_token_loss(
    hidden: Tensor, weight: Tensor, targets: Tensor, bias: Tensor | None = None, reduction: str = "mean"
) -> Tensor:
    """Cross-entropy in nats of hidden @ weight.T + bias against targets, without the (tokens, V) logits in memory.

    Args:
        hidden: (B, T, D) or (N, D); weight: (V, D); targets: (B, T) or (N,) ids; bias: (V,) or None.
        reduction: "mean" over every target, or "sum".

    Returns:
        A float32 scalar (float64 for float64 inputs).
    """
    if torch.is_autocast_enabled(hidden.device.type):
        hidden = hidden.to(torch.get_autocast_dtype(hidden.device.type))
    hidden, targets = hidden.reshape(-1, hidden.size(-1)), targets.reshape(-1)
    scale = 1.0 / targets.numel() if reduction == "mean" else 1.0
    return _ChunkedCrossEntropy.apply(hidden, weight, targets, bias, scale)


def perplexity(nats: float) -> float:
    """exp of the mean loss in nats; infinite where that overflows."""
    return math.exp(nats) if nats < 700 else math.inf


def bits_per_byte(total_nats: float, total_bytes: int) -> float:
    """Total nats of the predicted text over ln 2 and its UTF-8 bytes; comparable across tokenizers."""
    return total_nats / math.log(2) / total_bytes


class _ChunkedCrossEntropy(torch.autograd.Function):
    """Works through CHUNK rows at a time and takes their gradients at once, while the logits are at hand.

    backward then only multiplies by the incoming scalar: neither the logits nor a second product to recompute
    them. Softmax and sums are float32; weight and bias gradients accumulate in the parameters' own dtype (float32
    under autocast, where the products are in the autocast dtype).
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, bias: Tensor | None, scale: float) -> Tensor:
        needs = ctx.needs_input_grad
        wide = torch.promote_types(hidden.dtype, torch.float32)
        matrix = weight.to(hidden.dtype)
        grad_hidden = torch.empty_like(hidden) if needs[0] else None
        grad_weight = torch.zeros_like(weight, dtype=wide) if needs[1] else None
        grad_bias = torch.zeros_like(bias, dtype=wide) if bias is not None and needs[3] else None
        total = torch.zeros((), dtype=wide, device=hidden.device)
        offset = None if bias is None else bias.to(hidden.dtype)
        with torch.autocast(hidden.device.type, enabled=False):
            for start in range(0, len(hidden), CHUNK):
                rows, ids = hidden[start : start + CHUNK], targets[start : start + CHUNK, None]
                logits = F.linear(rows, matrix, offset).to(wide)
                log_sum = logits.logsumexp(-1, keepdim=True)
                total += (log_sum - logits.gather(1, ids)).sum()
                if not any(needs):
                    continue
                probabilities = logits.sub_(log_sum).exp_()
                grad = probabilities.scatter_add_(1, ids, probabilities.new_full(ids.shape, -1.0)).mul_(scale)
                if grad_bias is not None:
                    grad_bias += grad.sum(0)
                grad = grad.to(hidden.dtype)
                if grad_hidden is not None:
                    torch.mm(grad, matrix, out=grad_hidden[start : start + CHUNK])
                if grad_weight is not None:
                    if grad.dtype == wide:
                        grad_weight.addmm_(grad.t(), rows)
                    else:
                        grad_weight += grad.t() @ rows
        ctx.gradients = grad_hidden, grad_weight, grad_bias
        ctx.weight_dtype = weight.dtype
        return total * scale

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, bias = (
            None if grad is None else grad.mul_(grad_output.to(grad.dtype)) for grad in ctx.gradients
        )
        dtype = ctx.weight_dtype
        return (
            hidden,
            None if weight is None else weight.to(dtype),
            None,
            None if bias is None else bias.to(dtype),
            None,
        )
