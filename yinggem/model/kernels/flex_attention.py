"""Sliding-window attention by torch's FlexAttention, which on a GPU skips the blocks that no query sees."""

import warnings
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import flex_attention as flex
from torch.nn.attention.flex_attention import BlockMask, create_block_mask


def flex_attention_supports(query: Tensor, key: Tensor, value: Tensor, dropout: float) -> bool:
    """Whether FlexAttention can do it: it has no dropout, and on the CPU no backward pass."""
    return not dropout and (query.is_cuda or not any(x.requires_grad for x in (query, key, value)))


def flex_attention(query: Tensor, key: Tensor, value: Tensor, window: int) -> Tensor:
    """As `yinggem.model.attention.attention`: (B, Hq, T, d), twice (B, Hkv, S, d) -> (B, Hq, T, d)."""
    mask = _block_mask(query.size(2), key.size(2), window, str(query.device))
    grouped = query.size(1) != key.size(1)
    if query.is_cuda:
        out: Tensor = _compiled_flex()(query, key, value, block_mask=mask, enable_gqa=grouped)
        return out
    with warnings.catch_warnings():  # uncompiled it holds every score at once, and says so; here it is for comparison
        warnings.filterwarnings("ignore", message="flex_attention called without torch.compile")
        return flex.flex_attention(query, key, value, block_mask=mask, enable_gqa=grouped)


@lru_cache(maxsize=64)
def _block_mask(length: int, total: int, window: int, device: str) -> BlockMask:
    def sees(_batch: Tensor, _head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        distance = query + (total - length) - key
        return (distance >= 0) & (distance < window)

    return create_block_mask(sees, None, None, length, total, device=device)


@lru_cache(maxsize=1)
def _compiled_flex() -> Any:
    return torch.compile(flex.flex_attention)
