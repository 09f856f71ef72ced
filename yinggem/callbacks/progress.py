"""How far a run is: a bar on a terminal, a plain line at every validation anywhere else."""

import sys
import time
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import ProgressBar, RichProgressBar

from yinggem.training.final_validation import is_final_validation

SHORT = {"train/loss": "train", "val/loss": "val", "val/bits_per_byte": "bits/byte"}


def progress() -> ProgressBar:
    """What suits the place that the output goes to."""
    return Bar() if sys.stdout.isatty() else Lines()


def steps_to_go(trainer: pl.Trainer) -> int | None:
    """All steps of a run that counts in steps; None for one that counts in epochs."""
    by_steps = trainer.max_steps > 0 and (trainer.max_epochs is None or trainer.max_epochs < 0)
    return trainer.max_steps if by_steps else None


def newest_figures(trainer: pl.Trainer, module: Any) -> dict[str, str]:
    """The newest losses and the speed, under names that leave room for the bar."""
    newest = getattr(module, "newest", {}) | {name: float(value) for name, value in trainer.callback_metrics.items()}
    figures = {short: f"{newest[name]:.3f}" for name, short in SHORT.items() if name in newest}
    if "tokens_per_second" in newest:
        figures["tokens/s"] = f"{newest['tokens_per_second']:,.0f}"
    return figures


class Bar(RichProgressBar):
    """Lightning's rich bar: of the whole run where it counts in steps, of an epoch otherwise."""

    @property
    def total_train_batches(self) -> int | float:
        """Where the bar ends."""
        steps = steps_to_go(self.trainer)
        if steps is None or self.trainer.fast_dev_run:  # type: ignore[attr-defined]
            return super().total_train_batches
        return steps * self.trainer.accumulate_grad_batches

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """A new bar for the epoch, unless the one there is goes on."""
        if steps_to_go(trainer) is None or self.train_progress_bar_id is None:
            super().on_train_epoch_start(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Move on."""
        if steps_to_go(trainer) is not None:
            batch_idx = trainer.global_step * trainer.accumulate_grad_batches - 1
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def _get_train_description(self, current_epoch: int) -> str:
        if steps_to_go(self.trainer) is not None:
            return "Training"
        last = self.trainer.max_epochs
        return f"Epoch {current_epoch + 1}" + (f"/{last}" if last and last > 0 else "")

    def get_metrics(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, Any]:
        """The figures beside the bar, for which it has room in 100 columns."""
        return {name: value for name, value in newest_figures(trainer, pl_module).items() if name != "val"}

    def configure_columns(self, trainer: pl.Trainer) -> list[Any]:
        """Lightning's, the bar shorter and without batches per second: tokens per second are among the figures."""
        description, bar, done, left, _ = super().configure_columns(trainer)
        bar.bar_width = 14
        return [description, bar, done, left]


class Lines(ProgressBar):
    """One line at every validation: for logs, files and pipes."""

    def __init__(self) -> None:
        super().__init__()
        self._enabled, self._started = True, time.monotonic()

    def enable(self) -> None:
        """Part of Lightning's interface."""
        self._enabled = True

    def disable(self) -> None:
        """Lightning's word to the processes that should say nothing."""
        self._enabled = False

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock."""
        self._started = time.monotonic()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Print the line."""
        if trainer.sanity_checking or trainer.state.fn != "fit" or not self._enabled:
            return
        steps, epochs = steps_to_go(trainer), trainer.max_epochs
        if steps is not None:
            where = f"step {trainer.global_step:,}/{steps:,}"
        else:
            last = f"/{epochs}" if epochs and epochs > 0 else ""
            finished = is_final_validation(trainer)  # then Lightning has counted the epoch, a part of one too
            where = f"epoch {trainer.current_epoch + (not finished)}{last}, step {trainer.global_step:,}"
        minutes, seconds = divmod(round(time.monotonic() - self._started), 60)
        figures = ", ".join(f"{name} {value}" for name, value in newest_figures(trainer, pl_module).items())
        print(f"{where}: {figures} ({minutes}:{seconds:02})", flush=True)
