"""The step that decoding repeats: one token of each sequence in, the logits of the next one out."""

import copy
from typing import cast

from torch import Tensor, nn

from yinggem.model.kernels.matmul import PreparedLinear, prepare_linear
from yinggem.model.kv_cache import KVCache
from yinggem.model.layers import Linear, TiedHead
from yinggem.model.transformer import Transformer


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
