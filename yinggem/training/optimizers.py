"""What torch.optim and lr_scheduler do not have already: Muon beside AdamW and fast on a CPU, and three schedules."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from yinggem.common.errors import UserError

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
    """Not a shard, and on the CPU; asked as in `yinggem.model.kernels.matmul`."""
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


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Matrices, which decay, and vectors (norms, biases), which do not; one group where nothing decays."""
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    if not weight_decay:
        return [{"params": named}]
    matrices, vectors = ([pair for pair in named if (pair[1].ndim >= 2) == wide] for wide in (True, False))
    groups: list[dict[str, Any]] = [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def make_optimizer(
    optimizer: Callable[..., Optimizer], scheduler: Callable[..., Any], model: nn.Module, total_steps: int
) -> tuple[Optimizer, Any]:
    """Both, from their partial constructors; UserError naming the group and its values, where they refuse them."""
    decay = getattr(optimizer, "keywords", {}).get("weight_decay") or 0.0
    made = _named("optimizer", optimizer, parameter_groups(model, decay))
    return made, _named("scheduler", scheduler, made, total_steps=total_steps)


def _named(group: str, make: Callable[..., Any], *arguments: Any, **more: Any) -> Any:
    try:
        return make(*arguments, **more)
    except (TypeError, ValueError, AttributeError, KeyError, IndexError, ArithmeticError) as error:
        if isinstance(error, UserError):
            raise
        values = ", ".join(f"{group}.{name}={value}" for name, value in getattr(make, "keywords", {}).items())
        reason = " ".join(str(error).split()).rstrip(".")
        raise UserError(f"{group} does not take {values or 'these values'}: {reason}.") from error


def constant(optimizer: Optimizer, total_steps: int, warmup_steps: int = 0) -> LambdaLR:
    """A linear rise over `warmup_steps`, then the full rate. lr 1e-2 with 10,000 steps is min(1e-6 t, 1e-2)."""
    _check_warmup(warmup_steps)
    return LambdaLR(optimizer, lambda step: _rise(step, warmup_steps))


def warmup_cosine(
    optimizer: Optimizer, total_steps: int, warmup_steps: int = 0, final_fraction: float = 0.1
) -> LambdaLR:
    """A linear rise, then half a cosine down to `final_fraction` of the rate at `total_steps`."""
    _check_warmup(warmup_steps)
    _check_fraction("final_fraction", final_fraction)

    def factor(step: int) -> float:
        done = min(1.0, max(0, step - warmup_steps) / max(1, total_steps - warmup_steps))
        return _rise(step, warmup_steps) * (final_fraction + (1 - final_fraction) * (1 + math.cos(math.pi * done)) / 2)

    return LambdaLR(optimizer, factor)


def trapezoid(
    optimizer: Optimizer,
    total_steps: int,
    warmup_steps: int = 0,
    decay_fraction: float = 0.3,
    final_fraction: float = 0.0,
) -> LambdaLR:
    """A linear rise, the full rate, and a linear fall over the last `decay_fraction` of the steps."""
    _check_warmup(warmup_steps)
    _check_fraction("decay_fraction", decay_fraction)
    _check_fraction("final_fraction", final_fraction)

    def factor(step: int) -> float:
        left = (total_steps - step) / max(1.0, decay_fraction * total_steps)
        return _rise(step, warmup_steps) * (final_fraction + (1 - final_fraction) * min(1.0, max(0.0, left)))

    return LambdaLR(optimizer, factor)


def _rise(step: int, warmup_steps: int) -> float:
    return min(1.0, (step + 1) / warmup_steps) if warmup_steps else 1.0


def _check_warmup(warmup_steps: int) -> None:
    if not isinstance(warmup_steps, int) or isinstance(warmup_steps, bool) or warmup_steps < 0:
        raise UserError(f"scheduler.warmup_steps must be a whole number from 0 on, not {warmup_steps!r}.")


def _check_fraction(name: str, value: float) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise UserError(f"scheduler.{name} must be a number from 0 to 1, not {value!r}.")
