"""Rotary position embedding: angles from absolute positions, and turning query and key by them."""

import torch
from torch import Tensor

from yinggem.model.kernels.rotation import turn


def rotary_angles(
    start: int | Tensor, length: int, head_size: int, theta: float, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Cosines and signed sines (T, 1, head_size), float32, of positions start .. start + length - 1, for `rotate`.

    Where each row begins at a place of its own, `start` is (B, 1), and they are (B, T, 1, head_size).

    They are computed at every call rather than kept in a buffer: it costs microseconds, sets no longest
    sequence, and `model.to(torch.bfloat16)` cannot round them.
    """
    frequencies = theta ** -(torch.arange(0, head_size, 2, device=device, dtype=torch.float32) / head_size)
    positions = (start + torch.arange(length, device=device)).float()
    angles = (positions[..., None] * frequencies)[..., None, :]
    cos, sin = angles.cos(), angles.sin()
    return torch.cat((cos, cos), dim=-1), torch.cat((-sin, sin), dim=-1)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn the pairs (x[i], x[i + d/2]) of every head, as LLaMA does in transformers ("half-split").

    x (B, T, H, d) in any float dtype; cos and sin as `rotary_angles` gives them. The product is float32, the result
    x's dtype.
    """
    return turn(x, cos, sin)
