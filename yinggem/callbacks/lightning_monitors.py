"""Lightning's monitors of the learning rate and of the devices, whose figures stand at the step they belong to.

Lightning's own count of steps starts at 0. Here a step's number is how many have been taken with it.
"""

from typing import Any

import lightning.pytorch as pl
from lightning.pytorch import callbacks
from lightning.pytorch.accelerators.cpu import get_cpu_stats

from yinggem.training.module import LanguageModule


class LearningRateMonitor(callbacks.LearningRateMonitor):
    """Logs the learning rate of every group of parameters, in the row of the step that is taken with it."""

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, *args: Any, **kwargs: Any) -> None:
        """Log, where the figures of the coming step are wanted."""
        assert isinstance(pl_module, LanguageModule)
        if self.logging_interval != "epoch" and pl_module.is_logged(pl_module.next_step):
            pl_module.log_figures(self._extract_stats(trainer, "any"), pl_module.next_step)


class DeviceStatsMonitor(callbacks.DeviceStatsMonitor):
    """Logs memory and load of the devices before and after every step that is logged."""

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Log, where the figures of the coming step are wanted."""
        self._log(trainer, pl_module, "on_train_batch_start", pl_module.next_step)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Log, where a step has just been taken."""
        if pl_module.stepped:
            self._log(trainer, pl_module, "on_train_batch_end", trainer.global_step)

    def _log(self, trainer: pl.Trainer, module: LanguageModule, moment: str, step: int) -> None:
        device = trainer.strategy.root_device
        if not module.is_logged(step) or (self._cpu_stats is False and device.type == "cpu"):
            return
        figures = trainer.accelerator.get_device_stats(device)
        if self._cpu_stats and device.type != "cpu":
            figures = figures | get_cpu_stats()
        module.log_figures({f"DeviceStatsMonitor.{moment}/{name}": value for name, value in figures.items()}, step)
