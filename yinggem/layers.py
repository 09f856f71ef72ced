"""Linear, RMSNorm and the GeGLU feed-forward layer."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Linear(nn.Linear):
    """nn.Linear that reads its matrix at the speed of memory when it is given one row, as in decoding."""

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        one_row = x.numel() == self.in_features and x.dtype == torch.float32 and x.device.type == "cpu"
        if one_row and not torch.is_grad_enabled() and type(self.weight) is nn.Parameter:
            return multiply_row(x, self.weight, self.bias)
        return F.linear(x, self.weight, self.bias)


def multiply_row(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x (..., in) with one row, weight (out, in) -> (..., out), the rows of `weight` shared out among the threads.

    MKL multiplies a matrix and a vector on one thread (13 GB/s of the 35 that two cores read); a batch of matrices
    it spreads over all of them.
    """
    threads = torch.get_num_threads()
    shared = len(weight) // threads * threads
    parts = weight[:shared].view(threads, -1, weight.size(1))
    out = torch.bmm(parts, x.reshape(1, -1, 1).expand(threads, -1, 1)).flatten()
    if shared < len(weight):
        out = torch.cat((out, torch.mv(weight[shared:], x.flatten())))
    return (out if bias is None else out.add_(bias)).view(*x.shape[:-1], -1)


class RMSNorm(nn.Module):
    """Root-mean-square normalisation over the last dimension, reduced in float32 and cast back to the input's dtype."""

    def __init__(self, size: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """(..., size) -> (..., size)."""
        return F.rms_norm(x, self.weight.shape, self.weight.to(x.dtype), self.eps)


class GeGLU(nn.Module):
    """gelu_tanh(gate(x)) * up(x), projected down; gate and up are one matrix, `[gate; up]` by rows."""

    def __init__(self, hidden_size: int, intermediate_size: int, bias: bool) -> None:
        super().__init__()
        self.gate_up = Linear(hidden_size, 2 * intermediate_size, bias=bias)
        self.down = Linear(intermediate_size, hidden_size, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, D)."""
        gate, up = self.gate_up(x).chunk(2, dim=-1)
        return self.down(F.gelu(gate, approximate="tanh") * up)
