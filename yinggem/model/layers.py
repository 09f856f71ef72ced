"""The layers between attention: Linear, the tied output layer, Norm and the feed-forward MLP."""

import torch
from torch import Tensor, nn

from yinggem.model.activations import ACTIVATIONS
from yinggem.model.kernels.matmul import linear
from yinggem.model.norms import NORMS


class Linear(nn.Linear):
    """nn.Linear by the kernels of `yinggem.model.kernels.matmul`."""

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        return linear(x, self.weight, self.bias)


class TiedHead(nn.Module):
    """The output layer whose matrix is the embedding: it owns the bias alone, so a state dict holds the matrix once."""

    def __init__(self, embedding: nn.Embedding, bias: bool) -> None:
        super().__init__()
        self._embedding = (embedding,)  # in a tuple: not registered a second time as a submodule
        self.bias = nn.Parameter(torch.zeros(embedding.num_embeddings)) if bias else None

    @property
    def weight(self) -> Tensor:
        """(V, D), the embedding's parameter."""
        return self._embedding[0].weight

    def forward(self, hidden: Tensor) -> Tensor:
        """(..., D) -> logits (..., V)."""
        return linear(hidden, self.weight, self.bias)


class Norm(nn.Module):
    """Normalisation over the last dimension by one of `yinggem.model.norms.NORMS`.

    Args:
        bias: whether a norm that has a bias gets one.
    """

    def __init__(self, size: int, kind: str = "rms", eps: float = 1e-6, bias: bool = False) -> None:
        super().__init__()
        self.normalize, self.eps = NORMS[kind].function, eps
        self.weight = nn.Parameter(torch.ones(size))
        self.bias = nn.Parameter(torch.zeros(size)) if bias and NORMS[kind].has_bias else None

    def forward(self, x: Tensor) -> Tensor:
        """(..., size) -> (..., size)."""
        return self.normalize(x, self.weight, self.bias, self.eps)


class MLP(nn.Module):
    """The feed-forward layer: up to the intermediate size, an activation, down again.

    A gated activation takes two matrices up, kept as one, `[gate; up]` by rows.
    """

    def __init__(self, hidden_size: int, intermediate_size: int, bias: bool, activation: str = "geglu") -> None:
        super().__init__()
        self.activation, self.gated = ACTIVATIONS[activation]
        if self.gated:
            self.gate_up = Linear(hidden_size, 2 * intermediate_size, bias=bias)
        else:
            self.up = Linear(hidden_size, intermediate_size, bias=bias)
        self.down = Linear(intermediate_size, hidden_size, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, D)."""
        out: Tensor = self.down(self.activation(self.gate_up(x) if self.gated else self.up(x)))
        return out
