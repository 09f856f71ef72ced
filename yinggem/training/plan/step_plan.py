"""How many steps there is time for, where trainer.max_time ends a run: the schedule must know where its end is.

Measured once, on some steps of a model that is thrown away, and kept in the run folder: a run that is stopped and
continued ends with the same bits as one with that number typed as trainer.max_steps. A recipe's number of steps is the
most that are planned; one that is typed is left alone.
"""

import tempfile
import time
import warnings
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback, Timer

from yinggem.training.datamodule import TextDataModule
from yinggem.training.module import LanguageModule
from yinggem.training.plan.trial_run import SKIP_ALL, STEPS, Build, options_of, quiet, trial_trainer

TO_MEASURE, TO_COMPARE = 0.02, 0.005  # of the time limit: without a number of steps, and to see whether they fit
TO_TRAIN = 0.9  # of the time limit; the rest is for samples, and a machine that gets slower
FORWARD = 1 / 3  # of a training token's time: validating leaves the backward pass out


def ends_by_time_alone(trainer: Any) -> bool:
    """Whether of these options of a trainer only the time limits a run."""
    return bool(trainer.max_time) and trainer.max_steps in (None, -1) and trainer.max_epochs in (None, -1)


def may_end_early(trainer: Any) -> bool:
    """Whether time may end a run before its last step, one of more steps than are worth a trial."""
    return bool(trainer.max_time) and trainer.max_epochs in (None, -1) and (trainer.max_steps or 0) > STEPS


def plan_steps(cfg: Any, build: Build) -> int:
    """The optimizer steps that trainer.max_time has room for; when the time is over, a run ends in any case.

    Returns:
        trainer.max_steps, or -1 for no limit, where there is room for them, and where the schedule is the same for
        every length; also on several devices, whose speed together cannot be measured here.
    """
    trainer, module, data = build(cfg)
    most = -1 if ends_by_time_alone(cfg.trainer) else int(cfg.trainer.max_steps)
    if not depends_on_length(module) or (trainer.world_size > 1 and most > 0):
        return most
    if trainer.world_size > 1:
        text = (
            "With trainer.max_time alone the learning rate of several devices never falls; set trainer.max_steps too."
        )
        warnings.warn(text, stacklevel=2)
        return -1
    limit = Timer(duration=str(cfg.trainer.max_time)).time_remaining() or 0.0
    to_measure = (TO_MEASURE if most < 0 else TO_COMPARE) * limit
    seconds = seconds_per_step(module, data, to_measure, **options_of(cfg)) * (1 + validations_per_step(cfg, data))
    steps = max(1, int(TO_TRAIN * limit / seconds))
    if 0 < most <= steps:
        return most
    print(
        f"Planned    trainer.max_steps={steps}, for which trainer.max_time={cfg.trainer.max_time} has room", flush=True
    )
    return steps


def validations_per_step(cfg: Any, data: TextDataModule) -> float:
    """The time that validating takes for every optimizer step, as a part of the time of a step."""
    every, share = cfg.trainer.val_check_interval, cfg.trainer.limit_val_batches
    if not isinstance(every, int) or cfg.trainer.check_val_every_n_epoch is not None:
        return 0.0  # by epochs
    batches = len(data.val_dataloader())
    batches = min(batches, share) if isinstance(share, int) else int(batches * (1.0 if share is None else share))
    return validation_steps(batches, data, cfg.trainer.accumulate_grad_batches) / every


def validation_steps(batches: float, data: TextDataModule, accumulated: int) -> float:
    """How many optimizer steps take as long as a validation of so many batches."""
    tokens = batches * data.eval_batch_size * data.eval_context_length
    return FORWARD * tokens / (accumulated * data.batch_size * data.context_length)


def depends_on_length(module: LanguageModule) -> bool:
    """Whether the schedule needs to know how many steps there will be."""
    optimizer, _ = module.make_optimizer(total_steps=1)
    rates = []
    for total in (STEPS, 2 * STEPS):
        module.schedule_after(STEPS, optimizer, total)
        rates.append([group["lr"] for group in optimizer.param_groups])
    return rates[0] != rates[1]


class Clock(Callback):
    """Takes the time of optimizer steps, and ends the training after `limit` seconds, but not before the second.

    The first step also compiles and allocates, so it does not count.
    """

    def __init__(self, limit: float) -> None:
        self.limit, self.started = limit, time.perf_counter()
        self.ends: list[float] = []

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, *args: Any) -> None:
        """Note the end of a step."""
        if pl_module.stepped:
            self.ends.append(time.perf_counter())
            trainer.should_stop = len(self.ends) > 1 and self.ends[-1] - self.started > self.limit

    @property
    def seconds_per_step(self) -> float:
        """The mean over the steps after the first; of the first, where there is no other."""
        if len(self.ends) < 2:
            return self.ends[0] - self.started
        return (self.ends[-1] - self.ends[0]) / (len(self.ends) - 1)


def seconds_per_step(module: LanguageModule, data: TextDataModule, limit: float, **options: Any) -> float:
    """How long an optimizer step takes, measured for about `limit` seconds or 100 steps."""
    module.skip_bad_steps = SKIP_ALL
    with tempfile.TemporaryDirectory() as place, quiet():
        clock = Clock(limit)
        trial_trainer(default_root_dir=place, callbacks=[clock], **options).fit(module, data)
    return clock.seconds_per_step
