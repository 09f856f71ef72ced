"""The step that decoding repeats: one token of each sequence in, the logits of the next one out."""

import copy
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from yinggem.model.attention import attention
from yinggem.model.kernels.matmul import PreparedLinear, prepare_linear
from yinggem.model.kv_cache import KVCache
from yinggem.model.layers import Linear, TiedHead
from yinggem.model.masks import Documents
from yinggem.model.transformer import Attention, Transformer


class DecodingStep:
    """The model with its matrices laid out for one token of each row of the cache.

    It shares the weights with `model`, or holds copies of them, so it is valid until they change. It has no
    gradients.
    """

    def __init__(self, model: Transformer, cache: KVCache) -> None:
        self.cache = cache
        self.model = cast(Transformer, _with_prepared_matrices(model, cache.keys.size(1)))

    def __call__(self, tokens: Tensor) -> Tensor:
        """The next ids (B,) -> logits (B, V), float32, of those after them."""
        return self.model.next_logits(tokens[:, None], self.cache)


class SideBySideStep:
    """The same for texts of different lengths, each in a cache of its own: matrices are multiplied with all of them at
    once, and each attends alone. Rounding may differ from that of a text alone.

    Args:
        rows: about how many texts there are.
    """

    def __init__(self, model: Transformer, rows: int) -> None:
        self.model = cast(Transformer, _with_prepared_matrices(model, rows))
        for module in self.model.modules():
            if isinstance(module, Attention):
                module.attend = cast(Any, attend_each)  # it gets what `SideBySide` gives

    def __call__(self, tokens: Tensor, caches: Sequence[KVCache]) -> Tensor:
        """The next ids (R,) of texts in R caches -> logits (R, V), float32, of those after them."""
        return self.model.next_logits(tokens[:, None], cast(KVCache, SideBySide(caches)))


class SideBySide:
    """Caches of one row each, in the place of one: what it gives for each row, `attend_each` takes."""

    def __init__(self, caches: Sequence[KVCache]) -> None:
        self.caches = caches
        self.length = torch.tensor([[cache.length] for cache in caches], device=caches[0].keys.device)  # (R, 1)

    def reserve(self, tokens: int) -> None:
        """As `KVCache.reserve`."""
        for cache in self.caches:
            cache.reserve(tokens)

    def extend(self, layer: int, key: Tensor, value: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """As `KVCache.extend`, of each row."""
        pairs = zip(self.caches, key.split(1), value.split(1), strict=True)
        keys, values = zip(*(cache.extend(layer, k, v) for cache, k, v in pairs), strict=True)
        return [*keys], [*values]

    def documents(self, begins: Tensor) -> list[Documents]:
        """As `KVCache.documents`, of each row."""
        return [cache.documents(row) for cache, row in zip(self.caches, begins.split(1), strict=True)]

    def advance(self, tokens: int) -> None:
        """As `KVCache.advance`."""
        for cache in self.caches:
            cache.advance(tokens)


def attend_each(
    query: Tensor, keys: list[Tensor], values: list[Tensor], window: int | None, dropout: float, backend: str,
    documents: list[Documents] | None,
) -> Tensor:  # fmt: skip
    """As `attention`, of each row of query (R, Hq, 1, d) with the keys and values that it sees."""
    each: Sequence[Documents | None] = documents or [None] * len(keys)
    rows = zip(query.split(1), keys, values, each, strict=True)
    return torch.cat([attention(q, k, v, window, dropout, backend, d) for q, k, v, d in rows])


class PreparedLayer(nn.Module):
    """A `Linear` or `TiedHead` laid out for products of few rows."""

    def __init__(self, product: PreparedLinear) -> None:
        super().__init__()
        self.product = product

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        return self.product(x)


def _with_prepared_matrices(module: nn.Module, rows: int) -> nn.Module:
    """A twin of the tree of modules with prepared layers in it; all other layers and every parameter are shared."""
    if isinstance(module, Linear | TiedHead):
        product = prepare_linear(module.weight, module.bias, rows)
        return PreparedLayer(product) if product else module
    if not module._modules:  # nothing below: quantized layers, norms
        return module
    twin = copy.copy(module)
    twin._modules = {name: child and _with_prepared_matrices(child, rows) for name, child in module._modules.items()}
    return twin
