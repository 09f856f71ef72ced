"""Cross-entropy of hidden @ weight.T + bias in chunks of rows, whose gradients are taken while the logits exist."""

from typing import Any

import torch
from torch import Tensor

from yinggem.model.kernels.matmul import input_gradient, linear_without_grad

CHUNK_ELEMENTS = 1 << 25  # logits that exist at once: 128 MiB in float32; smaller chunks feed the matrix product worse


def chunked_cross_entropy(hidden: Tensor, weight: Tensor, targets: Tensor, bias: Tensor | None, scale: float) -> Tensor:
    """scale * the summed cross-entropy of hidden (N, D) by weight (V, D) and bias (V,) against targets (N,)."""
    out: Tensor = _ChunkedCrossEntropy.apply(hidden, weight, targets, bias, scale)
    return out


@torch.no_grad()
def token_cross_entropy(hidden: Tensor, weight: Tensor, targets: Tensor, bias: Tensor | None) -> Tensor:
    """(N,) cross-entropies of hidden (N, D) by weight (V, D) and bias (V,) against targets (N,), without gradients."""
    matrix, offset = weight.to(hidden.dtype), None if bias is None else bias.to(hidden.dtype)
    wide, size, found = torch.promote_types(hidden.dtype, torch.float32), max(1, CHUNK_ELEMENTS // len(weight)), []
    for rows, ids in zip(hidden.split(size), targets[:, None].split(size), strict=True):
        logits = linear_without_grad(rows, matrix, offset).to(wide)
        found.append(torch.log_softmax(logits, dim=-1, out=logits).gather(1, ids).neg_()[:, 0])
    return torch.cat(found)


class _ChunkedCrossEntropy(torch.autograd.Function):
    """A custom autograd function, because forward takes the gradients too; backward scales them.

    So no logits are kept, as autograd would, and no product is computed twice, as recomputing in backward would.
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
        unset = torch.empty_like if count else torch.zeros_like
        grad_weight = unset(weight, dtype=wide) if needs_weight else None
        grad_bias = torch.zeros_like(bias, dtype=wide) if bias is not None and needs_bias else None
        total = hidden.new_zeros((), dtype=wide)

        chunks = max(1, -(-count * vocabulary // CHUNK_ELEMENTS))
        size = max(1, -(-count // chunks))
        for start in range(0, count, size):
            rows, ids = hidden[start : start + size], targets[start : start + size, None]
            logits = linear_without_grad(rows, matrix, offset).to(wide)
            torch.log_softmax(logits, dim=-1, out=logits)
            total -= logits.gather(1, ids).sum()
            if not any(ctx.needs_input_grad):
                continue
            logits.exp_().scatter_add_(1, ids, logits.new_full(ids.shape, -1.0))  # softmax - one-hot
            grad = logits.to(dtype)
            if grad_hidden is not None:
                grad_hidden[start : start + size] = input_gradient(grad, matrix)
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
