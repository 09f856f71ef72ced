"""Next-token cross-entropy from hidden states."""

from typing import Any

import torch
from torch import Tensor

from yinggem.model.kernels.matmul import multiply, multiply_back

CHUNK_ELEMENTS = 1 << 25  # logits that exist at once: 128 MiB in float32; smaller chunks feed the matrix product worse


def next_token_loss(
    hidden: Tensor, weight: Tensor, targets: Tensor, bias: Tensor | None = None, reduction: str = "mean"
) -> Tensor:
    """Cross-entropy in nats of hidden @ weight.T + bias against targets, without the (tokens, V) logits in memory.

    Args:
        hidden: (B, T, D) or (N, D); weight: (V, D); targets: (B, T) or (N,) ids; bias: (V,) or None.
        reduction: "mean" over every target, or "sum".

    Returns:
        A float32 scalar (float64 for float64 inputs).

    Raises:
        ValueError: another reduction: a loss for each token is not kept.
    """
    if reduction not in ("mean", "sum"):
        raise ValueError(f"reduction must be mean or sum, not {reduction!r}")
    device = hidden.device.type
    if torch.is_autocast_enabled(device):
        hidden = hidden.to(torch.get_autocast_dtype(device))
    hidden, targets = hidden.reshape(-1, hidden.size(-1)), targets.reshape(-1)
    scale = 1.0 / targets.numel() if reduction == "mean" else 1.0
    with torch.autocast(device, enabled=False):
        return _ChunkedCrossEntropy.apply(hidden, weight, targets, bias, scale)


class _ChunkedCrossEntropy(torch.autograd.Function):
    """Works through the rows in chunks and takes their gradients at once, while the logits are at hand.

    backward then only multiplies by the incoming scalar: no logits are kept and no product is computed twice.
    Softmax and sums are float32, products are in the dtype of `hidden`; the gradients of weight and bias accumulate in
    float32.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, bias: Tensor | None, scale: float) -> Tensor:
        needs_hidden, needs_weight, _, needs_bias, _ = ctx.needs_input_grad
        (count, _), vocabulary, dtype = hidden.shape, len(weight), hidden.dtype
        wide = torch.promote_types(dtype, torch.float32)
        matrix, offset = weight.to(dtype), None if bias is None else bias.to(dtype)
        grad_hidden = torch.empty_like(hidden) if needs_hidden else None
        grad_weight = torch.empty_like(weight, dtype=wide) if needs_weight else None
        grad_bias = torch.zeros_like(bias, dtype=wide) if bias is not None and needs_bias else None
        total = hidden.new_zeros((), dtype=wide)

        chunks = max(1, -(-count * vocabulary // CHUNK_ELEMENTS))
        size = max(1, -(-count // chunks))
        for start in range(0, count, size):
            rows, ids = hidden[start : start + size], targets[start : start + size, None]
            logits = multiply(rows, matrix, offset).to(wide)
            torch.log_softmax(logits, dim=-1, out=logits)
            total -= logits.gather(1, ids).sum()
            if not any(ctx.needs_input_grad):
                continue
            logits.exp_().scatter_add_(1, ids, logits.new_full(ids.shape, -1.0))  # softmax - one-hot
            grad = logits.to(dtype)
            if grad_hidden is not None:
                grad_hidden[start : start + size] = multiply_back(grad, matrix)
            if grad_weight is not None:
                _add_product(grad_weight, grad.t(), rows, keep=start > 0)
            if grad_bias is not None:
                grad_bias += logits.sum(0)
            del logits, grad  # before the next ones are made
        ctx.gradients, ctx.scale, ctx.weight_dtype = (grad_hidden, grad_weight, grad_bias), scale, weight.dtype
        return total * scale

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        factor = grad_output * ctx.scale
        hidden, weight, bias = (None if grad is None else grad.mul_(factor) for grad in ctx.gradients)
        del ctx.gradients  # they were changed in place: a second backward must fail, not return other numbers
        weight, bias = (None if grad is None else grad.to(ctx.weight_dtype) for grad in (weight, bias))
        return hidden, weight, None, bias, None


def _add_product(total: Tensor, left: Tensor, right: Tensor, keep: bool) -> None:
    """total = (total if keep) + left @ right, in place; `total` may be of a wider dtype."""
    if total.dtype == right.dtype:
        total.addmm_(left, right, beta=float(keep))
    elif keep:
        total += left @ right
    else:
        total.copy_(left @ right)
