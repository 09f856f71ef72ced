"""Causal sliding-window attention: one function, several backends, one meaning.

A query at position i sees the keys j with i - window < j <= i: `window` keys, itself included (as Mistral in
transformers). Queries stand at the END of the keys: query t of T has position S - T + t among S keys.
"""

import warnings
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

BACKENDS = ("auto", "sdpa", "banded", "flex")
CHUNK = 128  # queries per step of "banded": each reads window + 127 keys, so a larger one wastes more on masked scores


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
    if window == total and length in (1, total):  # plain causal: every kernel of torch knows it, flash included
        return _sdpa(query, key, value, None, dropout, is_causal=length > 1)
    if backend == "flex" or (backend == "auto" and query.is_cuda):
        backend = "flex" if _flex_can(query, key, value, dropout) else "banded"
    if backend == "flex":
        return _flex(query, key, value, window)
    if backend == "sdpa" or (backend == "auto" and length <= CHUNK):
        return _sdpa(query, key, value, band_mask(length, total, window, query.device), dropout)
    return _Banded.apply(query, key, value, window, dropout)


def band_mask(length: int, total: int, window: int, device: torch.device | None = None) -> Tensor:
    """(T, S) booleans: True where a query of the last `length` of `total` positions sees the key."""
    queries = torch.arange(total - length, total, device=device)[:, None]
    distance = queries - torch.arange(total, device=device)
    return (distance >= 0) & (distance < window)


def _sdpa(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, dropout: float, is_causal: bool = False) -> Tensor:
    return F.scaled_dot_product_attention(
        q, k, v, attn_mask=mask, dropout_p=dropout, is_causal=is_causal, enable_gqa=q.size(1) != k.size(1)
    )


class _Banded(torch.autograd.Function):
    """Chunks of queries, each against the keys that its window reaches: linear in T, forward and backward.

    The gradient of a slice is a full-size tensor of zeros around the slice's, which would make the backward pass of a
    plain loop quadratic. So each chunk keeps a small graph of its own, and backward adds the gradients of its keys
    where they belong. Whatever the attention kernel can do (grouped heads, dropout, bfloat16) works here too.
    """

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, window: int, dropout: float) -> Tensor:
        ctx.chunks = []
        ctx.shapes = query.shape, key.shape
        history = key.size(2) - query.size(2)
        out = query.new_empty(query.transpose(1, 2).shape).transpose(1, 2)  # (B, T, Hq, d) in memory
        for start in range(0, query.size(2), CHUNK):
            rows = slice(start, min(start + CHUNK, query.size(2)))
            keys = slice(max(0, history + start - window + 1), history + rows.stop)
            mask = band_mask(rows.stop - start, keys.stop - keys.start, window, query.device)
            q, k, v = query[:, :, rows], key[:, :, keys], value[:, :, keys]
            if not any(ctx.needs_input_grad):
                out[:, :, rows] = _sdpa(q, k, v, mask, dropout)
                continue
            with torch.enable_grad():
                q, k, v = (x.detach().requires_grad_() for x in (q, k, v))
                part = _sdpa(q, k, v, mask, dropout)
            out[:, :, rows] = part.detach()
            ctx.chunks.append((rows, keys, (q, k, v), part))
        return out

    @staticmethod
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value = (grad_out.new_zeros(shape) for shape in (ctx.shapes[0], ctx.shapes[1], ctx.shapes[1]))
        while ctx.chunks:  # popped: its memory is free before the next chunk's gradients are made
            rows, keys, leaves, part = ctx.chunks.pop()
            grads = torch.autograd.grad(part, leaves, grad_out[:, :, rows])
            query[:, :, rows] = grads[0]
            key[:, :, keys] += grads[1]
            value[:, :, keys] += grads[2]
        return query, key, value, None, None


def _flex_can(query: Tensor, key: Tensor, value: Tensor, dropout: float) -> bool:
    """FlexAttention has no dropout, and on the CPU no backward pass: "banded" means the same and does the rest."""
    return not dropout and (query.is_cuda or not any(x.requires_grad for x in (query, key, value)))


def _flex(query: Tensor, key: Tensor, value: Tensor, window: int) -> Tensor:
    mask = _block_mask(query.size(2), key.size(2), window, str(query.device))
    grouped = query.size(1) != key.size(1)
    if query.is_cuda:
        return _compiled_flex()(query, key, value, block_mask=mask, enable_gqa=grouped)
    with warnings.catch_warnings():  # uncompiled it holds every score at once, and says so; here it is for comparison
        warnings.filterwarnings("ignore", message="flex_attention called without torch.compile")
        return flex_attention(query, key, value, block_mask=mask, enable_gqa=grouped)


@lru_cache(maxsize=64)
def _block_mask(length: int, total: int, window: int, device: str) -> BlockMask:
    def sees(_batch: Tensor, _head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        distance = query + (total - length) - key
        return (distance >= 0) & (distance < window)

    return create_block_mask(sees, None, None, length, total, device=device)


@lru_cache(maxsize=1)
def _compiled_flex() -> Any:
    return torch.compile(flex_attention)
