"""The checkpoints: the best ones, the one to continue from; and stopping when asked to."""

import contextlib
import os
import secrets
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Checkpoint

from yinggem.common.errors import UserError
from yinggem.common.stopping import StopRequested, stop_signal
from yinggem.inference.checkpoint import clean_leftovers
from yinggem.runs.processes import rank


class ModelCheckpoint(pl.callbacks.ModelCheckpoint):
    """Lightning's, in files that do not take each other's place: best.ckpt is the best of all, whatever save_top_k.

    With save_top_k=1 it is the only one. With more, or -1 for all, each is best-STEP.ckpt, and best.ckpt is another
    name (a hard link, where the file system has them) of the best.

    Raises:
        UserError: a number that makes no sense.
    """

    def __init__(self, dirpath: str, filename: str = "best", save_top_k: int = 1, **options: Any) -> None:
        if isinstance(save_top_k, bool) or not isinstance(save_top_k, int) or save_top_k < -1:
            raise UserError(
                f"callbacks.best.save_top_k must be a whole number of checkpoints, or -1 for all, not {save_top_k!r}."
            )
        several = save_top_k not in (0, 1)
        name = f"{filename}-{{step:06d}}" if several else filename
        super().__init__(dirpath, name, save_top_k=save_top_k, auto_insert_metric_name=False, **options)
        self._plain = Path(dirpath) / f"{filename}.ckpt" if several else None

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save, and let best.ckpt be the best."""
        before = self.best_model_path
        super().on_validation_end(trainer, pl_module)
        if self._plain and self.best_model_path != before and trainer.is_global_zero:
            link(Path(self.best_model_path), self._plain)


def link(source: Path, target: Path) -> None:
    """Let `target` be the file `source`, at once; a copy where there are no links."""
    partial = target.with_name(f".{target.name}.{os.getpid()}-{secrets.token_hex(4)}.partial")
    try:
        try:
            os.link(source, partial)
        except OSError:
            shutil.copyfile(source, partial)
        os.replace(partial, target)
    finally:
        with contextlib.suppress(FileNotFoundError):
            partial.unlink()


class LastCheckpoint(Checkpoint):
    """Keeps `dirpath`/last.ckpt current.

    A checkpoint is taken between steps only, when everything that belongs to the step is done: gradients applied,
    figures logged and, where a validation is due after this step, that one as well. A run continued from it repeats
    nothing and leaves nothing out. The first SIGINT or SIGTERM asks for such a checkpoint and then for the end; a
    second SIGINT leaves at once, which harms no file, for all are written atomically. SIGUSR2, by which submitit says
    that the time is up, is handed on once the checkpoint is there: its handler puts the job back into the queue.

    Args:
        dirpath: the folder of last.ckpt.
        every_n_steps, every_n_minutes: how often to save between validations; None for not.

    Raises:
        UserError: an interval that makes no sense.
        StopRequested: from the hook in which the run was stopped.
    """

    def __init__(self, dirpath: str, every_n_steps: int | None = None, every_n_minutes: float | None = None) -> None:
        super().__init__()
        steps, minutes = every_n_steps, every_n_minutes
        if steps is not None and (isinstance(steps, bool) or not isinstance(steps, int) or steps < 1):
            raise UserError(f"callbacks.last.every_n_steps must be a whole number from 1 on, or null, not {steps!r}.")
        if minutes is not None and (isinstance(minutes, bool | str) or not minutes >= 0):
            raise UserError(f"callbacks.last.every_n_minutes must be a number from 0 on, or null, not {minutes!r}.")
        self.path = Path(dirpath) / "last.ckpt"
        self.good = ""  # this checkpoint, once its weights have proved usable: validated, or trained on
        self._every_n_steps, self._every_n_minutes = every_n_steps, every_n_minutes
        self._saved_at, self._step, self._saved_step = time.monotonic(), -1, -1
        self._signum = 0
        self._handlers: dict[int, Any] = {}

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Remove what a killed process left half written."""
        if trainer.is_global_zero:
            for folder in (self.path.parent, self.path.parent.parent, self.path.parent.parent / ".hydra"):
                clean_leftovers(folder)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Listen to signals, where this is the main thread; one that came before counts, if it has ended nothing."""
        self._signum = stop_signal.signum
        self._saved_at, self._step = time.monotonic(), trainer.global_step
        try:
            self._handlers = {number: signal.signal(number, self._on_signal) for number in _listened_to()}
        except ValueError:  # another thread: signals are its owner's
            self._handlers = {}

    def _on_signal(self, signum: int, frame: Any) -> None:
        if self._signum and signum == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            signal.raise_signal(signal.SIGINT)
        if not self._signum and not rank():
            os.write(2, b"\nStopping after this step; Ctrl-C once more leaves at once.\n")
        self._signum = signum

    def _leave(self, step: int) -> None:
        signum = self._signum or signal.SIGTERM
        self._restore_handlers()
        if signum not in (signal.SIGINT, signal.SIGTERM):
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
            self.good = str(self.path)
        loop = trainer.fit_loop
        if loop.epoch_loop._should_check_val_fx(loop._data_fetcher):  # type: ignore[arg-type]
            return
        stop = self._asked_to_stop(trainer)
        steps_due = self._every_n_steps is not None and trainer.global_step % self._every_n_steps == 0
        finished = trainer.global_step == trainer.max_steps  # here, while the loops still stand inside the epoch
        if stop or steps_due or finished or self._minutes_are_over(trainer):
            self._save(trainer)
        if stop:
            self._leave(trainer.global_step)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save after every validation."""
        if trainer.sanity_checking or trainer.state.fn != "fit":
            return
        self._save(trainer)
        self.good = str(self.path)
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
            raise module.bad_numbers("The weights are no finite numbers any more", trainer.global_step)
        for logger in trainer.loggers:
            logger.save()  # what was logged before this step must not be lost with a kill after it
        trainer.save_checkpoint(self.path)
        self.good, self._saved_at, self._saved_step = "", time.monotonic(), trainer.global_step


def _listened_to() -> list[int]:
    """The signals that ask for the end; SIGUSR2 only where somebody has given it a meaning."""
    timeout = getattr(signal, "SIGUSR2", None)  # not on Windows
    cluster = [timeout] if timeout is not None and callable(signal.getsignal(timeout)) else []
    return [signal.SIGINT, signal.SIGTERM, *cluster]
