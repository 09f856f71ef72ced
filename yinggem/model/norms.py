"""The normalisations, `model.norm=NAME`: a new one is a new entry of `NORMS`.

torch is imported where a function needs it and not at the top, for `ModelConfig` reads this table without it.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor


class NormKind(NamedTuple):
    """How a vector is normalised.

    Attributes:
        function: x (..., size), weight (size,), bias (size,) or None, eps -> (..., size).
        has_bias: whether it has a bias where `model.bias` is true.
    """

    function: Callable[["Tensor", "Tensor", "Tensor | None", float], "Tensor"]
    has_bias: bool


def rms_norm(x: "Tensor", weight: "Tensor", bias: "Tensor | None", eps: float) -> "Tensor":
    """x / sqrt(mean(x^2) + eps) * weight (Zhang and Sennrich 2019), as in LLaMA; it has no bias."""
    from yinggem.model.kernels import rms_norm

    return rms_norm.rms_norm(x, weight, eps)


def layer_norm(x: "Tensor", weight: "Tensor", bias: "Tensor | None", eps: float) -> "Tensor":
    """(x - mean(x)) / sqrt(var(x) + eps) * weight + bias (Ba et al. 2016), as in GPT-2."""
    import torch.nn.functional as F

    return F.layer_norm(x, weight.shape, weight, bias, eps)


NORMS = {"rms": NormKind(rms_norm, has_bias=False), "layer": NormKind(layer_norm, has_bias=True)}
