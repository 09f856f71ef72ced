"""What is done once training is sure to start."""

from collections.abc import Callable

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback


class OnTrainStart(Callback):
    """Calls a function when everything that a checkpoint holds is restored and nothing has been logged yet.

    Whatever refuses a run has done so by then: what is written from here on is written by a run that goes on.
    """

    def __init__(self, begin: Callable[[], None]) -> None:
        self.begin = begin

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Call it."""
        self.begin()
