"""Schedules against their formulas."""

import math
from functools import partial

import pytest
import torch
from torch import nn

from yinggem.common.errors import UserError
from yinggem.training.optimizers.building import make_schedule
from yinggem.training.schedules import constant, trapezoid, warmup_cosine


def rates(schedule, steps: int) -> list[float]:
    """The factor of the learning rate at each of `steps` optimizer steps."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler, factors = schedule(optimizer, total_steps=steps), []
    for _ in range(steps):
        factors.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return factors


def test_the_reference_rule_is_min_of_1e_6_t_and_1e_2():
    factors = rates(partial(constant, warmup_steps=10_000), 10_050)
    assert [0.01 * factor for factor in factors] == pytest.approx([min(1e-6 * t, 1e-2) for t in range(1, 10_051)])


def test_cosine_is_half_a_cosine():
    factors = rates(partial(warmup_cosine, warmup_steps=10, final_fraction=0.1), 110)
    assert factors[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert factors[10] == pytest.approx(1.0) and factors[60] == pytest.approx(0.55)
    expected = [0.1 + 0.9 * (1 + math.cos(math.pi * step / 100)) / 2 for step in range(100)]
    assert factors[10:] == pytest.approx(expected)


def test_a_trapezoid_rises_stays_and_falls_in_straight_lines():
    factors = rates(partial(trapezoid, warmup_steps=10, decay_fraction=0.2, final_fraction=0.1), 100)
    assert factors[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert factors[10:81] == pytest.approx([1.0] * 71)
    assert factors[81:] == pytest.approx([0.1 + 0.9 * (100 - step) / 20 for step in range(81, 100)])


@pytest.mark.parametrize("schedule", [
    partial(constant, warmup_steps=-1), partial(trapezoid, decay_fraction=1.1),
    partial(constant, warmup_steps=1.5),  # type: ignore[arg-type]
    partial(trapezoid, final_fraction=-0.1), partial(warmup_cosine, final_fraction=True),
])  # fmt: skip
def test_values_that_make_no_schedule_are_refused(schedule):
    with pytest.raises(UserError, match="scheduler"):
        make_schedule(schedule, torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0), 10)
