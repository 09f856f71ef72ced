"""activation(gate) * up of one matrix [gate | up], with nothing but that matrix to keep for the backward pass."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Gate(NamedTuple):
    """An elementwise function and its gradient: (gradient of the result, input) -> gradient of the input."""

    forward: Callable[[Tensor], Tensor]
    backward: Callable[[Tensor, Tensor], Tensor]


GELU = Gate(
    partial(F.gelu, approximate="tanh"), lambda grad, x: torch.ops.aten.gelu_backward(grad, x, approximate="tanh")
)
SILU = Gate(F.silu, torch.ops.aten.silu_backward)


def gated_gelu(gate_up: Tensor) -> Tensor:
    """(..., 2 I) -> gelu_tanh(gate) * up, (..., I)."""
    return _gated(gate_up, GELU)


def gated_silu(gate_up: Tensor) -> Tensor:
    """(..., 2 I) -> silu(gate) * up, (..., I)."""
    return _gated(gate_up, SILU)


def _gated(gate_up: Tensor, function: Gate) -> Tensor:
    if torch.is_grad_enabled():
        out: Tensor = _Gated.apply(gate_up, function)
        return out
    return _multiply(gate_up, function)  # an autograd function would cost a noticeable part of a decoding step


def _multiply(gate_up: Tensor, function: Gate) -> Tensor:
    gate, up = gate_up.chunk(2, dim=-1)
    return function.forward(gate).mul_(up)


class _Gated(torch.autograd.Function):
    """A custom autograd function, because backward computes the activation again: autograd would keep it."""

    @staticmethod
    def forward(ctx: Any, gate_up: Tensor, function: Gate) -> Tensor:
        ctx.save_for_backward(gate_up)
        ctx.function = function
        return _multiply(gate_up, function)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (gate_up,) = ctx.saved_tensors
        gate, up = gate_up.chunk(2, dim=-1)
        grad_gate_up = torch.empty_like(gate_up)
        grad_gate, grad_up = grad_gate_up.chunk(2, dim=-1)
        grad_up.copy_(ctx.function.forward(gate)).mul_(grad)  # torch.compile loses an `out=` that is a slice
        grad_gate.copy_(ctx.function.backward(grad * up, gate))
        return grad_gate_up, None
