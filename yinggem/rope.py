"""Rotary position embedding: angles from absolute positions, and turning query and key by them."""

import torch
from torch import Tensor


def rotary_angles(start: int, length: int, head_size: int, theta: float, device: torch.device) -> tuple[Tensor, Tensor]:
    """Cosines and sines (T, head_size / 2), float32, of positions start .. start + length - 1.

    They are computed at every call rather than kept in a buffer: it costs microseconds, knows no longest
    sequence, and `model.to(torch.bfloat16)` cannot round them.
    """
    frequencies = theta ** -(torch.arange(0, head_size, 2, device=device, dtype=torch.float32) / head_size)
    positions = torch.arange(start, start + length, device=device, dtype=torch.float32)
    angles = positions[:, None] * frequencies
    return angles.cos(), angles.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn the pairs (x[i], x[i + d/2]) of every head, as LLaMA does in transformers ("half-split").

    x (B, T, H, d) in any float dtype; cos and sin (T, d/2) float32. The product is float32, the result x's dtype.
    """
    first, second = x.float().chunk(2, dim=-1)
    cos, sin = cos[:, None], sin[:, None]
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1).to(x.dtype)
