"""Sliding-window attention by torch's FlexAttention, which on a GPU skips the blocks that no query sees."""

import warnings
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import flex_attention as flex
from torch.nn.attention.flex_attention import BlockMask, create_block_mask
from torch.utils.weak import WeakTensorKeyDictionary

from yinggem.model.masks import Documents

_document_masks: Any = WeakTensorKeyDictionary()  # keys of documents -> {(T, window): mask}, as long as they live


def flex_attention_supports(query: Tensor, key: Tensor, value: Tensor, dropout: float) -> bool:
    """Whether FlexAttention can do it: it has no dropout, and on the CPU no backward pass."""
    return not dropout and (query.is_cuda or not any(x.requires_grad for x in (query, key, value)))


def flex_attention(
    query: Tensor, key: Tensor, value: Tensor, window: int, documents: Documents | None = None
) -> Tensor:
    """As `yinggem.model.attention.attention`: (B, Hq, T, d), twice (B, Hkv, S, d) -> (B, Hq, T, d)."""
    shape = query.size(2), key.size(2), window
    mask = _block_mask(*shape, str(query.device)) if documents is None else _document_mask(*shape, documents)
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


def _document_mask(length: int, total: int, window: int, documents: Documents) -> BlockMask:
    """Made once for all layers of a forward pass, which share the tensors of `documents`."""

    def sees(batch: Tensor, _head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        distance = query + (total - length) - key
        return (distance >= 0) & (distance < window) & (documents.queries[batch, query] == documents.keys[batch, key])

    masks: dict[tuple[int, int], BlockMask] = _document_masks.setdefault(documents.keys, {})
    if (length, window) not in masks:
        masks[length, window] = create_block_mask(
            sees, len(documents.keys), None, length, total, device=str(documents.keys.device)
        )
    return masks[length, window]


@lru_cache(maxsize=1)
def _compiled_flex() -> Any:
    return torch.compile(flex.flex_attention)
