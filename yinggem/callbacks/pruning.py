"""Ending the hopeless trials of a search early."""

from pathlib import Path
from typing import TYPE_CHECKING

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback

from yinggem.search.study import Pruned, hopeless, objective_of, running_trial
from yinggem.training.final_validation import is_final_validation

if TYPE_CHECKING:
    import optuna


class Pruning(Callback):
    """Tells the study how a trial does at every validation, and ends it where the pruner says so.

    optuna-integration's callback would do the same for a trial that is an object of this process; ours may be run by
    another one, on another machine, and be continued. Runs that belong to no search are left alone.

    Args:
        dirpath: the folder of the run.
        monitor: the figure to judge by; None for what the search minimises.

    Raises:
        Pruned: from a validation.
    """

    def __init__(self, dirpath: str, monitor: str | None = None) -> None:
        self.folder, self.monitor = Path(dirpath), monitor
        self.trial: optuna.Trial | None = None

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Find the trial."""
        if stage == "fit" and trainer.is_global_zero:
            self.trial = running_trial(self.folder)
        if self.trial is not None and self.monitor is None:
            self.monitor = f"val/{objective_of(self.trial.study)}"

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Report; stop, unless the run is over anyway."""
        if trainer.sanity_checking or trainer.state.fn != "fit" or is_final_validation(trainer):
            return
        stop = False
        if self.trial is not None and self.monitor in trainer.callback_metrics:
            stop = hopeless(self.trial, float(trainer.callback_metrics[self.monitor]), trainer.global_step)
        if trainer.strategy.broadcast(stop) and trainer.global_step != trainer.max_steps:
            raise Pruned(trainer.global_step)
