"""Muon for the matrices of the blocks beside AdamW for all else, fast on a CPU."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

Named = tuple[str, Tensor]
NOT_MATRICES = ("embedding.", "head.")  # two-dimensional, but look-up tables: Muon is for hidden layers


class Muon(torch.optim.Muon):
    """torch.optim.Muon, whose iteration on the CPU is float32 and takes all matrices of one shape together.

    torch's is bfloat16, which most CPUs emulate; where one does not, this takes about the same time (on two cores).
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step; the closure, if any, runs once with gradients enabled."""
        matrices = [p for group in self.param_groups for p in group["params"] if p.grad is not None]
        if not all(_is_plain(p) for p in matrices):
            return super().step(closure)
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for together in self._by_shape(group).values():
                self._update(together, group)
        return loss

    @staticmethod
    def _by_shape(group: dict[str, Any]) -> dict[torch.Size, list[Tensor]]:
        shapes: dict[torch.Size, list[Tensor]] = {}
        for p in group["params"]:
            if p.grad is not None:
                shapes.setdefault(p.shape, []).append(p)
        return shapes

    def _update(self, together: list[Tensor], group: dict[str, Any]) -> None:
        """Momentum, direction, decay and step of matrices (rows, columns) of one shape."""
        momentum, rate = group["momentum"], float(group["lr"])
        directions = []
        for p in together:
            state, grad = self.state[p], p.grad
            assert grad is not None
            if "momentum_buffer" not in state:
                state["momentum_buffer"] = torch.zeros_like(grad)
            buffer = state["momentum_buffer"].lerp_(grad, 1 - momentum)
            directions.append(grad.lerp(buffer, momentum) if group["nesterov"] else buffer)
        coefficients, steps = group["ns_coefficients"], group["ns_steps"]
        updates = orthogonalized(torch.stack(directions).float(), coefficients, steps, group["eps"])
        scale = math.sqrt(max(1.0, together[0].size(0) / together[0].size(1)))
        for p, update in zip(together, updates, strict=True):
            p.mul_(1 - rate * group["weight_decay"]).add_(update.to(p.dtype), alpha=-rate * scale)


def _is_plain(p: Tensor) -> bool:
    """Not a shard, and on the CPU, in any float format."""
    return p.device.type == "cpu" and type(p) in (Tensor, nn.Parameter)


def orthogonalized(matrices: Tensor, coefficients: tuple[float, float, float], steps: int, eps: float = 1e-7) -> Tensor:
    """(N, rows, columns) -> the same with singular values near 1, by Newton-Schulz iteration, in any float dtype.

    Each step maps the singular values s of a matrix of norm 1 to a s + b s^3 + c s^5. Source: Jordan et al. 2024.
    """
    tall = matrices.size(1) > matrices.size(2)
    x = matrices.mT if tall else matrices
    x = x / torch.linalg.matrix_norm(x, keepdim=True).clamp_(min=eps)
    a, b, c = coefficients
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


class MuonAdamW(Optimizer):
    """Muon for the matrices of the blocks, torch.optim.AdamW for everything else.

    Source: Jordan et al. 2024, "Muon: an optimizer for hidden layers". Schedulers see the groups of both and scale both
    learning rates alike.

    Args:
        params: parameter groups whose "params" are (name, parameter) pairs; only the pairs matter.
        lr, momentum, weight_decay: Muon's; its update is scaled by sqrt(max(1, rows / columns)).
        adamw_lr, betas: AdamW's; no weight decay there, for it holds look-up tables, norms and biases.
    """

    def __init__(
        self,
        params: Iterable[dict[str, Any]],
        lr: float = 0.02,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
        adamw_lr: float = 3e-3,
        betas: tuple[float, float] = (0.9, 0.95),
    ) -> None:
        named: list[Named] = [pair for group in params for pair in group["params"]]
        matrices = [(name, p) for name, p in named if p.ndim == 2 and not any(part in name for part in NOT_MATRICES)]
        chosen = {name for name, _ in matrices}
        self.muon = Muon(matrices, lr=lr, momentum=momentum, weight_decay=weight_decay)
        self.adamw = AdamW([pair for pair in named if pair[0] not in chosen], lr=adamw_lr, betas=betas, weight_decay=0)
        super().__init__([p for _, p in named], {})
        self.param_groups = [*self.muon.param_groups, *self.adamw.param_groups]  # the same dicts: one place for lr
        self.muon.state = self.adamw.state = self.state

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step of both; the closure, if any, runs once with gradients enabled."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self.muon.step()
        self.adamw.step()
        return loss

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what `state_dict` returned, in both."""
        super().load_state_dict(state_dict)
        count = len(self.muon.param_groups)
        self.muon.param_groups, self.adamw.param_groups = self.param_groups[:count], self.param_groups[count:]
        self.muon.state = self.adamw.state = self.state
