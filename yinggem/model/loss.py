"""Next-token cross-entropy from hidden states."""

import torch
from torch import Tensor

from yinggem.model.kernels.chunked_cross_entropy import chunked_cross_entropy, token_cross_entropy


def next_token_loss(
    hidden: Tensor, weight: Tensor, targets: Tensor, bias: Tensor | None = None, reduction: str = "mean"
) -> Tensor:
    """Cross-entropy in nats of hidden @ weight.T + bias against targets, without the (tokens, V) logits in memory.

    Args:
        hidden: (B, T, D) or (N, D); weight: (V, D); targets: (B, T) or (N,) ids; bias: (V,) or None.
        reduction: "mean" over every target (0 of none), "sum", or "none": one loss a target, without gradients.

    Returns:
        A float32 scalar (float64 for float64 inputs), or as many as `targets`, in its shape.

    Raises:
        ValueError: any other reduction.
    """
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f"reduction must be mean, sum or none, not {reduction!r}")
    shape = targets.shape
    device = hidden.device.type
    if torch.is_autocast_enabled(device):
        hidden = hidden.to(torch.get_autocast_dtype(device))
    hidden, targets = hidden.reshape(-1, hidden.size(-1)), targets.reshape(-1)
    scale = 1.0 / max(1, targets.numel()) if reduction == "mean" else 1.0
    with torch.autocast(device, enabled=False):
        if reduction == "none":
            return token_cross_entropy(hidden, weight, targets, bias).reshape(shape)
        return chunked_cross_entropy(hidden, weight, targets, bias, scale)
