"""Which keys a query sees."""

from typing import NamedTuple

import torch
from torch import Tensor


class Documents(NamedTuple):
    """The numbers of the documents that queries (B, T) and keys (B, S) belong to: a query sees keys of its own."""

    queries: Tensor
    keys: Tensor

    def same(self) -> Tensor:
        """(B, 1, T, S) booleans: True where both are of one document."""
        return (self.queries[:, :, None] == self.keys[:, None])[:, None]


def band_mask(length: int, total: int, window: int, device: torch.device | None = None) -> Tensor:
    """(T, S) booleans: True where a query of the last `length` of `total` positions sees the key."""
    queries = torch.arange(total - length, total, device=device)[:, None]
    distance = queries - torch.arange(total, device=device)
    return (distance >= 0) & (distance < window)
