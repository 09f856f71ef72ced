"""What is done once training is sure to start."""

from collections.abc import Callable

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback


class OnStart(Callback):
    """Calls a function once, when everything that a checkpoint holds is restored and nothing has been logged yet.

    Whatever refuses a run has done so by then: what is written from here on is written by a run that goes on.
    """

    def __init__(self, begin: Callable[[], None]) -> None:
        self.begin: Callable[[], None] | None = begin

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Call it."""
        begin, self.begin = self.begin, None
        if begin:
            begin()

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Call it where there is nothing to train any more, only the end to validate."""
        if not trainer.sanity_checking:
            self.on_train_start(trainer, pl_module)
