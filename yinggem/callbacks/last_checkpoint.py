"""last.ckpt, the checkpoint to continue from; and stopping when asked to."""

import contextlib
import os
import signal
import time
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Checkpoint

from yinggem.common.checks import check_number, check_whole_number
from yinggem.common.stopping import StopRequested, stop_signal, stopping_signals
from yinggem.inference.checkpoint import clean_leftovers
from yinggem.runs.processes import rank
from yinggem.training.final_validation import is_final_validation


class LastCheckpoint(Checkpoint):
    """Keeps `dirpath`/last.ckpt current.

    A checkpoint is taken between steps only, when everything that belongs to the step is done: gradients applied,
    figures logged and, where a validation is due after this step, that one as well. A run continued from it repeats
    nothing and leaves nothing out. The first SIGINT, SIGTERM or SIGHUP (a closed ssh session) asks for such a
    checkpoint and then for the end; a second SIGINT leaves at once, which harms no file, for all are written
    atomically. SIGUSR2, by which submitit says that the time is up, is handed on once the checkpoint is there: its
    handler puts the job back into the queue.

    Args:
        dirpath: the folder of last.ckpt.
        every_n_steps, every_n_minutes: how often to save between validations; None: never.

    Raises:
        UserError: an interval is out of range.
        StopRequested: from the hook in which the run was stopped.
    """

    def __init__(self, dirpath: str, every_n_steps: int | None = None, every_n_minutes: float | None = None) -> None:
        super().__init__()
        check_whole_number("callbacks.last.every_n_steps", every_n_steps, 1, optional=True)
        check_number("callbacks.last.every_n_minutes", every_n_minutes, 0, optional=True)
        self.path = Path(dirpath) / "last.ckpt"
        self._every_n_steps, self._every_n_minutes = every_n_steps, every_n_minutes
        self._saved_at, self._step, self._saved_step = time.monotonic(), -1, -1
        self._signum, self._process = 0, 0
        self._handlers: dict[int, Any] = {}

    def is_up_to_date(self, trainer: pl.Trainer) -> bool:
        """Whether last.ckpt is of the step that training has reached."""
        if self._step < 0:  # nothing was trained since the run was continued
            return trainer.ckpt_path is not None and Path(trainer.ckpt_path).resolve() == self.path.resolve()
        return self._saved_step == trainer.global_step

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Remove what a killed process left half written."""
        if trainer.is_global_zero:
            for folder in (self.path.parent, self.path.parent.parent, self.path.parent.parent / ".hydra"):
                clean_leftovers(folder)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Listen to signals, where this is the main thread; one that came before counts, if it has ended nothing."""
        self._signum, self._process = stop_signal.signum, os.getpid()
        self._saved_at, self._step = time.monotonic(), trainer.global_step
        try:
            self._handlers = {number: signal.signal(number, self._on_signal) for number in _listened_to()}
        except ValueError:  # another thread: signals are its owner's
            self._handlers = {}

    def _on_signal(self, signum: int, frame: Any) -> None:
        if os.getpid() != self._process:
            return  # a process that loads data inherited this: it works on until the run has stopped
        if self._signum and signum == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            signal.raise_signal(signal.SIGINT)
        if not self._signum and not rank():
            with contextlib.suppress(OSError):  # the terminal is closed: that may be why
                os.write(2, b"\nStopping after this step; press Ctrl-C again to stop at once.\n")
        self._signum = signum

    def _leave(self, step: int) -> None:
        signum = self._signum or signal.SIGTERM
        self._restore_handlers()
        if signum == getattr(signal, "SIGUSR2", None):
            signal.raise_signal(signum)
        raise StopRequested(signum, step, self.path)

    def _restore_handlers(self) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers = {}

    def on_train_batch_end(self, trainer: pl.Trainer, *args: Any) -> None:
        """Save when it is time, unless gradients are half accumulated or a validation comes first."""
        if trainer.global_step == self._step:
            return
        self._step = trainer.global_step
        module: Any = trainer.lightning_module
        if self._saved_step == trainer.global_step - 1 and bool(torch.isfinite(module.grad_norm)):
            module.good_checkpoints["last"] = str(self.path)  # its weights have proved usable: they were trained on
        loop = trainer.fit_loop
        if loop.epoch_loop._should_check_val_fx(loop._data_fetcher):  # type: ignore[arg-type]
            return
        stop = self._asked_to_stop(trainer)
        steps_due = self._every_n_steps is not None and trainer.global_step % self._every_n_steps == 0
        # The end is saved here, while the loops still stand inside the epoch: they can be continued from there.
        finished = trainer.global_step == trainer.max_steps or (trainer.should_stop and loop._can_stop_early)
        if stop or steps_due or finished or self._minutes_are_over(trainer):
            self._save(trainer)
        if stop:
            self._leave(trainer.global_step)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save after every validation."""
        if trainer.sanity_checking or trainer.state.fn != "fit":
            return
        if is_final_validation(trainer):  # which a longer run does not have: last.ckpt is from before it
            return
        self._save(trainer)
        module: Any = pl_module
        module.good_checkpoints["last"] = str(self.path)  # its weights have proved usable: they were validated
        if self._asked_to_stop(trainer):
            self._leave(trainer.global_step)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save the end of the run, unless that is done: a checkpoint inside an epoch can be continued for longer."""
        if self._saved_step != trainer.global_step:
            self._save(trainer)
        self._restore_handlers()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Hand the signals back."""
        self._restore_handlers()

    def _asked_to_stop(self, trainer: pl.Trainer) -> bool:
        return bool(trainer.strategy.reduce_boolean_decision(bool(self._signum), all=False))

    def _minutes_are_over(self, trainer: pl.Trainer) -> bool:
        if self._every_n_minutes is None:
            return False
        over = time.monotonic() - self._saved_at >= 60 * self._every_n_minutes
        return bool(trainer.strategy.broadcast(over))

    def _save(self, trainer: pl.Trainer) -> None:
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        module: Any = trainer.lightning_module
        finite = all(bool(torch.isfinite(weights).all()) for weights in module.parameters())
        if not trainer.strategy.reduce_boolean_decision(finite):
            raise module.bad_numbers("Some weights are NaN or infinite", trainer.global_step)
        for logger in trainer.loggers:
            logger.save()  # what was logged before this step must not be lost with a kill after it
        trainer.save_checkpoint(self.path)
        module.good_checkpoints.pop("last", None)
        self._saved_at, self._saved_step = time.monotonic(), trainer.global_step


def _listened_to() -> list[int]:
    """The signals that ask for the end; SIGUSR2 only where somebody has given it a meaning."""
    timeout = getattr(signal, "SIGUSR2", None)  # not on Windows
    cluster = [timeout] if timeout is not None and callable(signal.getsignal(timeout)) else []
    return [*stopping_signals(), *cluster]
