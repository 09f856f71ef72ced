"""x @ weight.T by the fastest float32 kernel that torch has on the CPU for the number of rows.

`linear` is for many rows, `prepare_linear` for decoding: products of few rows with the same matrix again and again.

F.linear calls MKL, which is made for Intel's processors. On others it is up to a tenth slower than oneDNN for many
rows, and for one or two rows it takes two to six times as long as reading the matrix. On Intel's it is as fast as
memory for up to three rows, and a tenth to a quarter faster than oneDNN at the gradients (benchmarks/products.py). The
choice depends on the maker of the processor and the shape, never on a clock, so that a run has the same bits every
time. Other devices and dtypes, autocast and torch.compile go through F.linear.
"""

import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SMALL = 1 << 22  # multiplications below which a call of oneDNN costs more than it saves
SMALL_MATRIX = 1 << 16  # weights below which a decoding step is fastest by F.linear
READING_ROWS = 2  # up to here a product is as fast as its matrix is read, and beyond bound by the arithmetic
MKL_READING_ROWS = 3  # the same for MKL on Intel's processors

PreparedLinear = Callable[[Tensor], Tensor]


@functools.cache
def has_onednn() -> bool:
    """Whether torch was built with it."""
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


@functools.cache
def prefers_mkl() -> bool:
    """Whether torch has MKL and runs on an Intel processor, for which MKL is made."""
    return torch.backends.mkl.is_available() and "Intel" in str(torch.cpu.get_capabilities().get("cpu_name"))


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """(..., in), (out, in), (out,) -> (..., out), differentiable once."""
    if not _suits_onednn(x, weight) or torch.is_autocast_enabled("cpu") or x.numel() * len(weight) < SMALL:
        return F.linear(x, weight, bias)
    return _OneDNNLinear.apply(x, weight, bias) if torch.is_grad_enabled() else onednn_linear(x, weight, bias)


def linear_without_grad(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """As `linear` for many rows, without gradients and without autocast."""
    return onednn_linear(x, weight, bias) if _suits_onednn(x, weight) else F.linear(x, weight, bias)


def input_gradient(grad: Tensor, weight: Tensor) -> Tensor:
    """The gradient of x in x @ weight.T: (..., out), (out, in) -> grad @ weight (..., in), without one of its own."""
    return onednn_linear(grad, weight.t()) if _suits_onednn(grad, weight) and not prefers_mkl() else grad @ weight


def _suits_onednn(x: Tensor, weight: Tensor) -> bool:
    return not torch.compiler.is_compiling() and has_onednn() and is_cpu_float32(x) and is_cpu_float32(weight)


def is_cpu_float32(tensor: Tensor) -> bool:
    """Whether oneDNN can take it: a float32 tensor of the CPU, and no subclass (a distributed shard)."""
    return tensor.dtype == torch.float32 and tensor.device.type == "cpu" and type(tensor) in (Tensor, nn.Parameter)


def onednn_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x @ weight.T + bias; `weight` may be transposed in memory."""
    out: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return out


def prepare_linear(weight: Tensor, bias: Tensor | None, rows: int) -> PreparedLinear | None:
    """What maps x (..., in) of `rows` rows in all to (..., out) fastest; None where `linear` does.

    It holds views of the weight, or a copy laid out for oneDNN, so it is valid until the weight changes.
    """
    if not is_cpu_float32(weight) or weight.numel() < SMALL_MATRIX or torch.is_autocast_enabled("cpu"):
        return None
    if prefers_mkl() and rows <= MKL_READING_ROWS:
        return functools.partial(F.linear, weight=weight, bias=bias)
    if rows <= READING_ROWS:
        return _split_among_threads(weight, bias)
    if not has_onednn():
        return None
    packed = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), rows)
    return lambda x: onednn_linear(x, packed, bias)


def _split_among_threads(weight: Tensor, bias: Tensor | None) -> PreparedLinear:
    """The rows of the weight shared out among the threads: parts (threads, out / threads, in) @ x (in, rows).

    MKL multiplies a matrix and one or two vectors on one thread; a batch of matrices it spreads over all of them.
    """
    out, size = weight.shape
    threads = torch.get_num_threads()
    shared = out // threads * threads
    parts, rest = weight[:shared].view(threads, -1, size), weight[shared:]
    bias = weight.new_zeros(out) if bias is None else bias
    parts_bias, rest_bias = bias[:shared].view(threads, -1, 1), bias[shared:, None]

    def product(x: Tensor) -> Tensor:
        # x.T for every part, in one call; with strides (1, 1) instead of (1, in) a column takes a far slower path
        columns = x.contiguous().as_strided((threads, size, x.numel() // size), (0, 1, size))
        y = torch.baddbmm(parts_bias, parts, columns).permute(2, 0, 1)  # (rows, threads, out / threads)
        if shared < out:
            y = torch.cat((y.flatten(1), torch.addmm(rest_bias, rest, columns[0]).t()), dim=1)
        return y.reshape(*x.shape[:-1], out)

    return product


class _OneDNNLinear(torch.autograd.Function):
    """A custom autograd function, because oneDNN's operator has no gradient. MKL computes the weight's."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return onednn_linear(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        grad = grad.contiguous()
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad
        rows = grad.flatten(0, -2)
        return (
            input_gradient(grad, weight) if needs_x else None,
            rows.t() @ x.flatten(0, -2) if needs_weight else None,
            rows.sum(0) if needs_bias else None,
        )
