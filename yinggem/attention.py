"""Causal sliding-window attention: one function, several backends, one meaning.

A query at position i sees the keys j with i - window < j <= i: `window` keys, itself included (as Mistral in
transformers). Queries stand at the END of the keys: query t of T has position S - T + t among S keys.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

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
    if window == total and (length == total or length == 1):  # plain causal: every kernel of torch knows it
        return _sdpa(query, key, value, None, dropout, is_causal=length > 1)
    if backend == "auto":
        backend = "flex" if query.is_cuda and not dropout else "banded"
    if backend == "banded" and window < total:
        return _Banded.apply(query, key, value, window, dropout)
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
            leaves = [query[:, :, rows], key[:, :, keys], value[:, :, keys]]
            mask = band_mask(rows.stop - start, keys.stop - keys.start, window, query.device)
            if not any(ctx.needs_input_grad):
                out[:, :, rows] = _sdpa(*leaves, mask, dropout)
                continue
            with torch.enable_grad():
                leaves = [x.detach().requires_grad_() for x in leaves]
                part = _sdpa(*leaves, mask, dropout)
            out[:, :, rows] = part.detach()
            ctx.chunks.append((rows, keys, leaves, part))
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


def _flex(query: Tensor, key: Tensor, value: Tensor, window: int) -> Tensor:
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    offset = key.size(2) - query.size(2)

    def sees(_batch: Tensor, _head: Tensor, q: Tensor, k: Tensor) -> Tensor:
        distance = q + offset - k
        return (distance >= 0) & (distance < window)

    mask = create_block_mask(sees, None, None, query.size(2), key.size(2), device=str(query.device))
    return flex_attention(query, key, value, block_mask=mask, enable_gqa=query.size(1) != key.size(1))
