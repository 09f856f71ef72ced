"""Causal sliding-window attention: one function, several backends, one meaning.

A query at position i sees the keys j with i - window < j <= i: `window` keys, itself included (as Mistral in
transformers). Queries stand at the END of the keys: query t of T has position S - T + t among S keys.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

BACKENDS = ("auto", "sdpa", "banded", "flex")


def attention(
    query: Tensor, key: Tensor, value: Tensor, window: int | None, dropout: float = 0.0, backend: str = "auto"
) -> Tensor:
    """Attend: query (B, Hq, T, d), key and value (B, Hkv, S, d) with S >= T and Hkv dividing Hq -> (B, Hq, T, d).

    Args:
        window: keys each query sees, itself included; None is full causal attention.
        dropout: probability of dropping an attention weight; the caller passes 0 outside training.
        backend: one of `BACKENDS`.
    """
    length, total = query.size(2), key.size(2)
    window = min(window or total, total)
    if window == total and (length == total or length == 1):  # plain causal: every kernel of torch knows it
        return _sdpa(query, key, value, None, dropout, is_causal=length > 1)
    if backend == "auto":
        backend = "flex" if query.is_cuda and not dropout else "banded"
    if backend == "banded" and window < total:
        return _banded(query, key, value, window, dropout)
    if backend == "flex" and not dropout:
        return _flex(query, key, value, window)
    mask = band_mask(length, total, window, query.device)
    return _sdpa(query, key, value, mask, dropout)


def band_mask(length: int, total: int, window: int, device: torch.device | None = None) -> Tensor:
    """(T, S) booleans: True where a query of the last `length` of `total` positions sees the key."""
    queries = torch.arange(total - length, total, device=device)[:, None]
    distance = queries - torch.arange(total, device=device)
    return (distance >= 0) & (distance < window)


def _sdpa(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, dropout: float, is_causal: bool = False) -> Tensor:
    return F.scaled_dot_product_attention(
        q, k, v, attn_mask=mask, dropout_p=dropout, is_causal=is_causal, enable_gqa=q.size(1) != k.size(1)
    )


def _banded(query: Tensor, key: Tensor, value: Tensor, window: int, dropout: float) -> Tensor:
    """Blocks of `window` queries, each against its own block of keys and the one before: linear in T."""
    batch, heads, length, size = query.shape
    key, value = (x[:, :, -(length + window - 1) :] for x in (key, value))
    history = key.size(2) - length
    blocks = -(-length // window)
    tail = blocks * window - length
    query = F.pad(query, (0, 0, 0, tail)).unflatten(2, (blocks, window))
    key, value = (F.pad(x, (0, 0, window - history, tail)).unfold(2, 2 * window, window) for x in (key, value))
    mask = band_mask(window, 2 * window, window, query.device).repeat(blocks, 1, 1)
    mask[0, :, : window - history] = False  # the padding before the first key
    groups = heads // key.size(1)
    query = query.transpose(1, 2).flatten(0, 1)
    key, value = (x.transpose(3, 4).transpose(1, 2).flatten(0, 1).repeat_interleave(groups, 1) for x in (key, value))
    mask = mask.repeat(batch, 1, 1)[:, None]
    out = _sdpa(query, key, value, mask, dropout)
    return out.unflatten(0, (batch, blocks)).transpose(1, 2).reshape(batch, heads, -1, size)[:, :, :length]


def _flex(query: Tensor, key: Tensor, value: Tensor, window: int) -> Tensor:
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    offset = key.size(2) - query.size(2)

    def sees(_batch: Tensor, _head: Tensor, q: Tensor, k: Tensor) -> Tensor:
        distance = q + offset - k
        return (distance >= 0) & (distance < window)

    mask = create_block_mask(sees, None, None, query.size(2), key.size(2), device=str(query.device))
    return flex_attention(query, key, value, block_mask=mask, enable_gqa=query.size(1) != key.size(1))
