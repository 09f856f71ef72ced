"""How long a run will take on this machine and why it will end, said once its first steps are taken."""

import time
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback, Timer

from yinggem.callbacks.early_stopping import EarlyStopping
from yinggem.training.module import UNLIMITED
from yinggem.training.plan.step_plan import validation_steps

ENOUGH = 1.5  # seconds of steps after the first, which also allocates and compiles
HOUR = 3600
SMALLER = "model=tiny is the smallest, trainer.max_time=00:01:00:00 ends it after an hour"


class Forecast(Callback):
    """Prints the line after the first steps of a run, in the first process."""

    def __init__(self) -> None:
        self._ends: list[float] = []  # of the steps so far; emptied once the line is printed
        self._said = False

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, *args: Any) -> None:
        """Take the time of the steps, and print."""
        if self._said or not pl_module.stepped or trainer.fast_dev_run or not trainer.is_global_zero:  # type: ignore[attr-defined]
            return
        self._ends.append(time.perf_counter())
        left = pl_module.total_steps - trainer.global_step
        taken, spent = len(self._ends) - 1, self._ends[-1] - self._ends[0]
        if taken < 1 or (spent < ENOUGH and taken < left):
            return
        self._said = True
        seconds = None if pl_module.total_steps == UNLIMITED else seconds_left(trainer, left, spent / taken)
        print(f"Takes      {sentence(trainer, seconds)}", flush=True)


def seconds_left(trainer: pl.Trainer, steps: int, seconds_per_step: float) -> float:
    """For so many more steps, and the validations among them."""
    data: Any = trainer.datamodule  # type: ignore[attr-defined]
    validation = validation_steps(sum(trainer.num_val_batches), data, trainer.accumulate_grad_batches)
    validations = steps // steps_between_validations(trainer) + 1
    return (steps + validations * validation) * seconds_per_step


def steps_between_validations(trainer: pl.Trainer) -> int:
    """Optimizer steps from one validation to the next, as `EpochLoop` counts them."""
    every: Any = getattr(trainer.fit_loop.epoch_loop, "interval", 1.0)
    if isinstance(every, int) and trainer.check_val_every_n_epoch is None:
        return every
    steps = max(1, int(trainer.num_training_batches) // trainer.accumulate_grad_batches)
    within = min(every, steps) if isinstance(every, int) else max(1, int(steps * every))
    return within * (trainer.check_val_every_n_epoch or 1)


def sentence(trainer: pl.Trainer, seconds: float | None) -> str:
    """The time in words, and every setting that can end the run.

    Args:
        seconds: for all steps; None where their number is not limited.
    """
    limit = next((c.time_remaining() for c in trainer.callbacks if isinstance(c, Timer)), None)  # type: ignore[attr-defined]
    times = [one for one in (seconds, limit) if one is not None]
    if not times:
        return f"as long as you let it: it ends {' or '.join(reasons(trainer)) or 'with Ctrl-C'}; {SMALLER}."
    long = f"; {SMALLER}" if min(times) > HOUR else ""
    return f"{in_words(min(times))} on this machine: it ends {', or '.join(reasons(trainer))}{long}."


def reasons(trainer: pl.Trainer) -> list[str]:
    """What ends the run, as halves of a sentence."""
    found = []
    if trainer.max_steps > 0:
        found.append(f"after trainer.max_steps={trainer.max_steps}")
    if trainer.max_epochs is not None and trainer.max_epochs > 0:
        found.append(f"after trainer.max_epochs={trainer.max_epochs}")
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    found += [f"when trainer.max_time={max_time(one)} is over" for one in callbacks if isinstance(one, Timer)]
    for one in callbacks:
        if isinstance(one, EarlyStopping):
            times = max(1, one.patience)
            found.append(f"when {one.monitor} has not improved in {times} validation{'s' * (times > 1)}")
    return found


def max_time(timer: Timer) -> str:
    """The limit of a timer as trainer.max_time is typed, DD:HH:MM:SS."""
    seconds = round(timer.time_elapsed() + (timer.time_remaining() or 0))
    minutes, hours = seconds // 60, seconds // 3600
    return f"{hours // 24:02}:{hours % 24:02}:{minutes % 60:02}:{seconds % 60:02}"


def in_words(seconds: float) -> str:
    """As somebody would say it who does not promise anything."""
    if seconds < 10:
        return "a few seconds"
    if seconds < 100:
        return f"about {round(seconds, -1):.0f} seconds"
    if seconds < 100 * 60:
        return f"about {seconds / 60:.0f} minutes"
    hours = seconds / HOUR
    return f"about {hours:,.0f} hours" + (f" ({hours / 24:,.0f} days)" if hours >= 48 else "")
