"""Which keys a query sees."""

import torch
from torch import Tensor


def band_mask(length: int, total: int, window: int, device: torch.device | None = None) -> Tensor:
    """(T, S) booleans: True where a query of the last `length` of `total` positions sees the key."""
    queries = torch.arange(total - length, total, device=device)[:, None]
    distance = queries - torch.arange(total, device=device)
    return (distance >= 0) & (distance < window)
