"""x @ weight.T by the fastest float32 kernel that torch has on the CPU for the number of rows.

F.linear asks MKL, which multiplies a large matrix and a few rows two to six times slower than memory is read, and
many rows up to a tenth slower than oneDNN (on an AMD processor: benchmarks/products.py). Other devices and dtypes,
autocast and torch.compile go through F.linear.
"""

import functools
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FEW_ROWS = 4  # up to here a product costs what reading its matrix costs
SMALL = 1 << 22  # multiplications below which a call of oneDNN costs more than it saves


@functools.cache
def has_onednn() -> bool:
    """Whether torch was built with it."""
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """(..., in), (out, in), (out,) -> (..., out), differentiable once."""
    if not _is_plain(x) or not _is_plain(weight) or torch.is_autocast_enabled("cpu") or torch.compiler.is_compiling():
        return F.linear(x, weight, bias)
    if not torch.is_grad_enabled() and x.numel() <= FEW_ROWS * weight.size(1):
        return multiply_few_rows(x, weight, bias)
    if not has_onednn() or x.numel() * len(weight) < SMALL:
        return F.linear(x, weight, bias)
    return _Linear.apply(x, weight, bias) if torch.is_grad_enabled() else onednn(x, weight, bias)


def _is_plain(tensor: Tensor) -> bool:
    """Not a shard of a distributed tensor, nor anything else that redefines what an operator does."""
    return tensor.dtype == torch.float32 and tensor.device.type == "cpu" and type(tensor) in (Tensor, nn.Parameter)


def onednn(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x @ weight.T + bias; `weight` may be transposed in memory."""
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


def multiply_few_rows(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x (..., in) with a few rows, weight (out, in) -> (..., out), the rows of `weight` shared out among the threads.

    MKL multiplies a matrix and one or two vectors on one thread; a batch of matrices it spreads over all of them.
    """
    threads, rows = torch.get_num_threads(), x.reshape(-1, x.size(-1))
    shared = len(weight) // threads * threads
    parts = weight[:shared].view(threads, -1, weight.size(1))
    columns = rows.t()  # strides (1, in): with (1, 1) bmm takes a path five times slower
    out = torch.bmm(parts, columns.expand(threads, -1, -1)).view(shared, len(rows))
    if shared < len(weight):
        out = torch.cat((out, weight[shared:] @ columns))
    out = out.t() if bias is None else out.t() + bias
    return out.reshape(*x.shape[:-1], -1)


class _Linear(torch.autograd.Function):
    """The products with the weight by oneDNN; the weight's gradient by MKL, which is as fast at that one."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return onednn(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        grad = grad.contiguous()
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad
        rows = grad.flatten(0, -2)
        return (
            onednn(grad, weight.t()) if needs_x else None,
            rows.t() @ x.flatten(0, -2) if needs_weight else None,
            rows.sum(0) if needs_bias else None,
        )
