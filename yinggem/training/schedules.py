"""Learning-rate schedules: the factor of the rate by the steps taken so far, closed formulas of (step, total_steps)."""

import math

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from yinggem.common.checks import check_number, check_whole_number


def constant(optimizer: Optimizer, total_steps: int, warmup_steps: int = 0) -> LambdaLR:
    """A linear rise over `warmup_steps`, then the full rate. lr 1e-2 with 10,000 steps is min(1e-6 t, 1e-2)."""
    check_whole_number("scheduler.warmup_steps", warmup_steps, 0)
    return LambdaLR(optimizer, lambda step: _rise(step, warmup_steps))


def warmup_cosine(
    optimizer: Optimizer, total_steps: int, warmup_steps: int = 0, final_fraction: float = 0.1
) -> LambdaLR:
    """A linear rise, then half a cosine down to `final_fraction` of the rate at `total_steps`."""
    check_whole_number("scheduler.warmup_steps", warmup_steps, 0)
    check_number("scheduler.final_fraction", final_fraction, 0, 1)

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
    check_whole_number("scheduler.warmup_steps", warmup_steps, 0)
    check_number("scheduler.decay_fraction", decay_fraction, 0, 1)
    check_number("scheduler.final_fraction", final_fraction, 0, 1)

    def factor(step: int) -> float:
        left = (total_steps - step) / max(1.0, decay_fraction * total_steps)
        return _rise(step, warmup_steps) * (final_fraction + (1 - final_fraction) * min(1.0, max(0.0, left)))

    return LambdaLR(optimizer, factor)


def _rise(step: int, warmup_steps: int) -> float:
    return min(1.0, (step + 1) / warmup_steps) if warmup_steps else 1.0
