"""Sliding-window attention in chunks of queries, each against the keys that its window reaches: linear in T.

A chunk is a product, a softmax and another product; backward does the first two again rather than keep their results.
On the CPU that is faster than torch's flash kernel, which multiplies smaller blocks.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from yinggem.model.masks import Documents, band_mask

CHUNK = 128  # queries per step: each reads window + 127 keys, so a larger one wastes more on masked scores
SCORES = 1 << 20  # of one step on the CPU: 4 MiB that stay in its cache between the products


def banded_attention(
    query: Tensor, key: Tensor, value: Tensor, window: int, dropout: float = 0.0, documents: Documents | None = None
) -> Tensor:
    """As `yinggem.model.attention.attention`: (B, Hq, T, d), twice (B, Hkv, S, d) -> (B, Hq, T, d)."""
    out: Tensor = _Banded.apply(query, key, value, window, dropout, documents)
    return out


class _Banded(torch.autograd.Function):
    """A custom autograd function, because backward computes a chunk's weights again: autograd would keep them all."""

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        window: int,
        dropout: float,
        documents: Documents | None,
    ) -> Tensor:
        ctx.documents = documents
        ctx.window, ctx.dropout, ctx.seed = window, dropout, int(torch.randint(1 << 62, ())) if dropout else 0
        draw, scale = _noise(query.device, dropout, ctx.seed), query.size(-1) ** -0.5
        out = query.new_empty(query.transpose(1, 2).shape).transpose(1, 2)  # (B, T, Hq, d) in memory
        for queries, keys, bias, apart in _parts(query, key, window, documents):
            k, v = key[keys].flatten(0, 1), value[keys].flatten(0, 1)  # (N, K, d)
            q = query[queries].reshape(len(k), -1, k.size(-1))  # (N, G C, d): the G heads that share a key, in a row
            weights = _weights(q * scale, k, bias, apart).to(v.dtype)
            noise = draw(weights)
            part = torch.bmm(weights if noise is None else weights * noise, v)
            out[queries] = part.view(out[queries].shape)
            del weights  # here and below: the next part finds the same memory, still in the cache
        ctx.save_for_backward(query, key, value, out)
        return out

    @staticmethod
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, out = ctx.saved_tensors
        grad_query, grad_key, grad_value = query.new_empty(query.shape), *(x.new_zeros(x.shape) for x in (key, value))
        draw, scale = _noise(query.device, ctx.dropout, ctx.seed), query.size(-1) ** -0.5
        for queries, keys, bias, apart in _parts(query, key, ctx.window, ctx.documents):
            k, v = key[keys].flatten(0, 1), value[keys].flatten(0, 1)
            q, o, grad = (x[queries].reshape(len(k), -1, k.size(-1)) for x in (query, out, grad_out))
            q = q * scale
            weights = _weights(q, k, bias, apart)
            kept, slope = weights.to(v.dtype), torch.bmm(grad, v.mT)
            noise = draw(kept)
            if noise is not None:
                kept, slope = kept * noise, slope * noise
            grad_value[keys] += torch.bmm(kept.mT, grad).view(grad_value[keys].shape)
            mean = (grad * o).sum(-1, keepdim=True, dtype=weights.dtype)  # of the slopes, weighted: FlashAttention's D
            slope = slope.to(weights.dtype).sub_(mean).mul_(weights).to(v.dtype)
            grad_key[keys] += torch.bmm(slope.mT, q).view(grad_key[keys].shape)
            grad_query[queries] = torch.bmm(slope, k).mul_(scale).view(grad_query[queries].shape)
            del weights, kept, slope
        return grad_query, grad_key, grad_value, None, None, None


Slices = tuple[slice, slice, slice]


def _parts(
    query: Tensor, key: Tensor, window: int, documents: Documents | None
) -> Iterator[tuple[Slices, Slices, Tensor, Tensor | None]]:
    """Where the queries and the keys of each part are, and what is added to their scores (1, G C, K): 0 or -inf.

    The last, (N, G C, K) booleans, says which are of two documents; None: none are.
    """
    (batch, heads, length, _), (_, kv_heads, total, _) = query.shape, key.shape
    reach, history = window - 1 + CHUNK, total - length
    hidden = ~band_mask(CHUNK, reach, window, query.device)
    bias = query.new_zeros(hidden.shape).masked_fill_(hidden, -torch.inf)
    entries = max(1, SCORES // (heads * CHUNK * reach)) if query.device.type == "cpu" else batch
    for start in range(0, length, CHUNK):
        rows = slice(start, min(start + CHUNK, length))
        seen = slice(max(0, history + start - window + 1), history + rows.stop)
        count, last = rows.stop - start, window - 1 + rows.stop - start
        part = bias[:count, last - (seen.stop - seen.start) : last].repeat(heads // kv_heads, 1)[None]
        for first in range(0, batch, entries):
            some = slice(first, first + entries)
            apart = None
            if documents is not None:
                differ = documents.queries[some, rows, None] != documents.keys[some, None, seen]  # (E, C, K)
                apart = differ[:, None].repeat(1, kv_heads, heads // kv_heads, 1).flatten(0, 1)  # (E Hkv, G C, K)
            yield (some, slice(None), rows), (some, slice(None), seen), part, apart


def _weights(q: Tensor, k: Tensor, bias: Tensor, apart: Tensor | None) -> Tensor:
    """The softmax of the scores, float32 or wider."""
    scores = torch.bmm(q, k.mT)
    for edge in (slice(None, CHUNK), slice(-CHUNK, None)):  # between them every query sees every key
        scores[..., edge] += bias[..., edge]
    if apart is not None:
        scores.masked_fill_(apart, -torch.inf)
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
    return torch.softmax(scores, -1, out=scores)  # in place: a new 4 MiB would push the old out of the cache


def _noise(device: torch.device, dropout: float, seed: int) -> Callable[[Tensor], Tensor | None]:
    """Draws factors 0 and 1 / (1 - dropout): the same ones in backward as in forward, for both begin with `seed`."""
    if not dropout:
        return lambda weights: None
    generator = torch.Generator(device).manual_seed(seed)
    return lambda weights: torch.empty_like(weights).bernoulli_(1 - dropout, generator=generator).div_(1 - dropout)
