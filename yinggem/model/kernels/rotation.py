"""Rotating pairs of numbers, keeping only the angles for the backward pass."""

from typing import Any

import torch
from torch import Tensor


def turn(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x * cos + (x with its halves exchanged) * sin in float32, in x's dtype; x (..., d) in any float dtype."""
    return _Rotation.apply(x, cos, sin) if torch.is_grad_enabled() else _turn(x, cos, sin)


class _Rotation(torch.autograd.Function):
    """A custom autograd function, because the gradient needs the angles only: autograd would keep x in float32."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _turn(x, cos, sin)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        return _turn(grad, cos, -sin), None, None


def _turn(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    wide = x.float()
    return torch.addcmul(wide * cos, wide.roll(x.size(-1) // 2, dims=-1), sin).to(x.dtype)
