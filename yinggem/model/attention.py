"""Causal sliding-window attention: one function, several backends, one meaning.

A query at position i sees the keys j with i - window < j <= i: `window` keys, itself included (as Mistral in
transformers). Queries stand at the END of the keys: query t of T has position S - T + t among S keys. Where there are
documents, it sees the keys of its own alone; one query may then have its keys in any order.
"""

import torch.nn.functional as F
from torch import Tensor

from yinggem.common.errors import UserError
from yinggem.model.kernels.banded_attention import CHUNK, banded_attention
from yinggem.model.kernels.flex_attention import flex_attention, flex_attention_supports
from yinggem.model.masks import Documents, band_mask

BACKENDS = ("auto", "sdpa", "banded", "flex")


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    window: int | None,
    dropout: float = 0.0,
    backend: str = "auto",
    documents: Documents | None = None,
) -> Tensor:
    """Attend: query (B, Hq, T, d), key and value (B, Hkv, S, d) with S >= T and Hkv dividing Hq -> (B, Hq, T, d).

    Args:
        window: keys each query sees, itself included; None is full causal attention.
        dropout: probability of dropping an attention weight; the caller passes 0 outside training.
        backend: one of `BACKENDS`.
        documents: of queries and keys; None: all are of one.

    Raises:
        UserError: there is no such backend.
    """
    check_backend(backend)
    length, total = query.size(2), key.size(2)
    window = min(window or total, total)
    if window == total and length in (1, total):  # plain causal: every kernel of torch knows it, flash included
        if documents is None:
            return _sdpa(query, key, value, None, dropout, is_causal=length > 1)
        if length == 1:
            return _sdpa(query, key, value, documents.same(), dropout)
    if backend == "flex" or (backend == "auto" and query.is_cuda):
        backend = "flex" if flex_attention_supports(query, key, value, dropout) else "banded"
    if backend == "flex":
        return flex_attention(query, key, value, window, documents)
    if backend == "sdpa" or (backend == "auto" and length <= CHUNK):
        mask = band_mask(length, total, window, query.device)
        return _sdpa(query, key, value, mask if documents is None else mask & documents.same(), dropout)
    return banded_attention(query, key, value, window, dropout, documents)


def check_backend(backend: str) -> None:
    """UserError when there is no such backend: another would silently take its place."""
    if backend not in BACKENDS:
        raise UserError(f"attention_backend={backend} is unknown; choose {', '.join(BACKENDS[:-1])} or {BACKENDS[-1]}.")


def _sdpa(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, dropout: float, is_causal: bool = False) -> Tensor:
    return F.scaled_dot_product_attention(
        q, k, v, attn_mask=mask, dropout_p=dropout, is_causal=is_causal, enable_gqa=q.size(1) != k.size(1)
    )
