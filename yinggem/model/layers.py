"""Linear, RMSNorm and the GeGLU feed-forward layer."""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from yinggem.model.kernels.matmul import Product, linear, prepare


class Linear(nn.Linear):
    """nn.Linear by the kernels of `yinggem.model.kernels.matmul`."""

    product: Product | None = None  # of a decoding step: see `decoding`

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        return _multiply(self, x)


class TiedHead(nn.Module):
    """The output layer whose matrix is the embedding: it owns the bias alone, so a state dict holds the matrix once."""

    product: Product | None = None

    def __init__(self, embedding: nn.Embedding, bias: bool) -> None:
        super().__init__()
        self._embedding = (embedding,)  # in a tuple: not registered a second time as a submodule
        self.bias = nn.Parameter(torch.zeros(embedding.num_embeddings)) if bias else None

    @property
    def weight(self) -> Tensor:
        """(V, D), the embedding's parameter."""
        return self._embedding[0].weight

    def forward(self, hidden: Tensor) -> Tensor:
        """(..., D) -> logits (..., V)."""
        return _multiply(self, hidden)


def _multiply(layer: Linear | TiedHead, x: Tensor) -> Tensor:
    if layer.product and not torch.is_grad_enabled():
        return layer.product(x)
    return linear(x, layer.weight, layer.bias)


@contextlib.contextmanager
def decoding(model: nn.Module, rows: int) -> Iterator[None]:
    """Inside, every matrix of `model` is laid out for inputs of `rows` rows; the weights must not change meanwhile."""
    layers = [module for module in model.modules() if isinstance(module, Linear | TiedHead)]
    try:
        for layer in layers:
            layer.product = prepare(layer.weight, layer.bias, rows)
        yield
    finally:
        for layer in layers:
            layer.__dict__.pop("product", None)  # the class's None again; compiled code checks who has one of its own


class RMSNorm(nn.Module):
    """Root-mean-square normalisation over the last dimension, reduced in float32 and cast back to the input's dtype."""

    def __init__(self, size: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """(..., size) -> (..., size)."""
        if not torch.is_grad_enabled():  # a decoding step is so short that calling an autograd function shows
            return _normalised(x, self.weight, self.eps)[0]
        return _RMSNorm.apply(x, self.weight, self.eps)


def _normalised(x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """x over its root mean square, times weight, and one over that root (..., 1); fewer operators than F.rms_norm."""
    wide = x if x.dtype in (torch.float32, torch.float64) else x.float()
    norm = torch.linalg.vector_norm(wide, dim=-1, keepdim=True)
    scale = torch.addcmul(norm.new_full((), eps), norm, norm, value=1 / x.size(-1)).rsqrt_()
    return (wide * scale).to(x.dtype).mul_(weight), scale


class _RMSNorm(torch.autograd.Function):
    """Keeps x and one float32 number a row: torch's composite keeps the normalised copy too."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        out, scale = _normalised(x, weight, eps)
        ctx.save_for_backward(x, weight, scale)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        x, weight, scale = ctx.saved_tensors
        grad, weight = grad.to(scale.dtype), weight.to(scale.dtype)
        unit = x * scale
        product = grad * unit
        grad_weight = product.flatten(0, -2).sum(0)
        along = (product @ weight).div_(x.size(-1))[..., None]  # mean over the row of grad * weight * unit
        grad_x = (grad * weight).addcmul_(unit, along, value=-1).mul_(scale)
        return grad_x.to(x.dtype), grad_weight.to(ctx.saved_tensors[1].dtype), None


class GeGLU(nn.Module):
    """gelu_tanh(gate(x)) * up(x), projected down; gate and up are one matrix, `[gate; up]` by rows."""

    def __init__(self, hidden_size: int, intermediate_size: int, bias: bool) -> None:
        super().__init__()
        self.gate_up = Linear(hidden_size, 2 * intermediate_size, bias=bias)
        self.down = Linear(intermediate_size, hidden_size, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, D)."""
        gate_up = self.gate_up(x)
        if not torch.is_grad_enabled():
            return self.down(_gated_gelu(gate_up))
        return self.down(_GatedGELU.apply(gate_up))


def _gated_gelu(gate_up: Tensor) -> Tensor:
    gate, up = gate_up.chunk(2, dim=-1)
    return F.gelu(gate, approximate="tanh").mul_(up)


class _GatedGELU(torch.autograd.Function):
    """gelu_tanh(gate) * up of [gate | up]; computes the GELU again in backward rather than keep it."""

    @staticmethod
    def forward(ctx: Any, gate_up: Tensor) -> Tensor:
        ctx.save_for_backward(gate_up)
        return _gated_gelu(gate_up)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (gate_up,) = ctx.saved_tensors
        gate, up = gate_up.chunk(2, dim=-1)
        grad_gate_up = torch.empty_like(gate_up)
        grad_gate, grad_up = grad_gate_up.chunk(2, dim=-1)
        grad_up.copy_(F.gelu(gate, approximate="tanh")).mul_(grad)  # torch.compile loses an `out=` that is a part
        grad_gate.copy_(torch.ops.aten.gelu_backward(grad * up, gate, approximate="tanh"))
        return grad_gate_up
