"""The activations of the feed-forward layer, `model.activation=NAME`: a new one is a new entry of `ACTIVATIONS`.

torch is imported where a function needs it and not at the top, for `ModelConfig` reads this table without it.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor


class Activation(NamedTuple):
    """What stands between the matrices of the feed-forward layer.

    Attributes:
        function: (..., I) -> (..., I), elementwise; of a gated one (..., 2 I), which is [gate | up], -> (..., I).
        gated: whether there is a second matrix up, for the gate.
    """

    function: Callable[["Tensor"], "Tensor"]
    gated: bool


def geglu(gate_up: "Tensor") -> "Tensor":
    """gelu_tanh(gate) * up (Shazeer 2020)."""
    from yinggem.model.kernels.gated_activation import gated_gelu

    return gated_gelu(gate_up)


def swiglu(gate_up: "Tensor") -> "Tensor":
    """silu(gate) * up (Shazeer 2020), as in LLaMA."""
    from yinggem.model.kernels.gated_activation import gated_silu

    return gated_silu(gate_up)


def relu2(x: "Tensor") -> "Tensor":
    """relu(x)^2 (So et al. 2021)."""
    return x.relu().square()


ACTIVATIONS = {
    "geglu": Activation(geglu, gated=True),
    "swiglu": Activation(swiglu, gated=True),
    "relu2": Activation(relu2, gated=False),
}
