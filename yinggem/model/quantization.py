"""Weights as small integers: decoding is limited by reading them from memory, and there is less to read.

The embedding, the head and every matrix between them are rounded; norms and biases stay floats. docs/performance.md has
the figures.

- int8 predicts as well as float32, and is fast for batches and prompts too.
- int4 is the fastest for one text at a time, and a third of a percent worse. A matrix stays in 8 bits
  if the length of its rows is not a multiple of 32.

Both are fast on x86. Elsewhere (GPUs, other processors) weights become floats for each product: small, but no faster.
"""

import math

from torch import Tensor, nn

from yinggem.model.kernels.integer_matrix import Int4Matrix, Int8Matrix, QuantizedMatrix
from yinggem.model.layers import TiedHead
from yinggem.model.transformer import Transformer
from yinggem.model.weights import check_quantization, diverged, kind_of_matrix


class _Embedding(QuantizedMatrix):
    """nn.Embedding."""

    def forward(self, tokens: Tensor) -> Tensor:
        """Ids (...) -> (..., K) float32."""
        return self.look_up(tokens)


class _Linear(QuantizedMatrix):
    """nn.Linear."""

    def __init__(self, weight: Tensor, bias: nn.Parameter | None) -> None:
        super().__init__(weight)
        self.bias = bias

    def forward(self, x: Tensor) -> Tensor:
        """(..., K) -> (..., N)."""
        return self.multiply(x, self.bias)


class Int8Embedding(_Embedding, Int8Matrix):
    """nn.Embedding of 8 bits."""


class Int4Embedding(_Embedding, Int4Matrix):
    """nn.Embedding of 4 bits."""


class Int8Linear(_Linear, Int8Matrix):
    """nn.Linear of 8 bits."""


class Int4Linear(_Linear, Int4Matrix):
    """nn.Linear of 4 bits."""


EMBEDDINGS: dict[str, type[_Embedding]] = {"int8": Int8Embedding, "int4": Int4Embedding}
LINEARS: dict[str, type[_Linear]] = {"int8": Int8Linear, "int4": Int4Linear}


class QuantizedTiedHead(nn.Module):
    """`TiedHead`: the embedding's matrix, and a bias of its own."""

    def __init__(self, embedding: QuantizedMatrix, bias: nn.Parameter | None) -> None:
        super().__init__()
        self._embedding = (embedding,)  # in a tuple: not registered a second time as a submodule
        self.bias = bias

    @property
    def weight(self) -> Tensor:
        """(V, D) float32."""
        return self._embedding[0].weight

    def forward(self, hidden: Tensor) -> Tensor:
        """(..., D) -> logits (..., V)."""
        return self._embedding[0].multiply(hidden, self.bias)


def quantize(model: Transformer, kind: str = "int8") -> Transformer:
    """Replace the matrices of `model` in place, for inference only; returns it. A quantised model stays as it is.

    Raises:
        UserError: the kind is unknown, or not the one the model has already; or some weights are NaN or infinite.
    """
    before = quantization_of(model)
    check_quantization(kind, before)
    if before == kind:
        return model
    for name, parameter in model.named_parameters():
        if not parameter.is_meta and not all(math.isfinite(x.item()) for x in (parameter.amin(), parameter.amax())):
            raise diverged(name)
    embedding = EMBEDDINGS[kind_of_matrix(model.embedding.weight.shape, kind)](model.embedding.weight)
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.Linear):
                setattr(module, name, LINEARS[kind_of_matrix(child.weight.shape, kind)](child.weight, child.bias))
    if isinstance(model.head, TiedHead):
        model.head = QuantizedTiedHead(embedding, model.head.bias)  # type: ignore[assignment]
    model.embedding = embedding  # type: ignore[assignment]
    return model.requires_grad_(False)


def dequantized(model: Transformer) -> Transformer:
    """A new model in floats, for training, with the weights that the integers of `model` stand for."""
    made = Transformer(model.config)
    weights = {
        f"{name}.weight": module.weight for name, module in model.named_modules() if isinstance(module, QuantizedMatrix)
    }
    kept = {name: tensor for name, tensor in model.state_dict().items() if name in made.state_dict()}
    made.load_state_dict(kept | weights)
    return made


def quantization_of(model: Transformer) -> str | None:
    """How the weights of `model` are kept: one of `QUANTIZATIONS`, or None for floats."""
    kinds = {"int4" if isinstance(m, Int4Matrix) else "int8" for m in model.modules() if isinstance(m, QuantizedMatrix)}
    return min(kinds, default=None)  # int4 where there are both
