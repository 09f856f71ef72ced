"""Stopping when validation no longer improves."""

from typing import Any

import lightning.pytorch as pl

from yinggem.common.checks import check_whole_number
from yinggem.training.final_validation import is_final_validation


class EarlyStopping(pl.callbacks.EarlyStopping):
    """Lightning's, except that a continued run remembers having stopped, and that the patience may be changed.

    Raises:
        UserError: the patience is not a whole number from 0 on.
    """

    def __init__(self, monitor: str, patience: int = 3, **options: Any) -> None:
        remedy = "leave the callback out with ~callbacks.early_stopping"
        check_whole_number("callbacks.early_stopping.patience", patience, 0, remedy=remedy)
        super().__init__(monitor, patience=patience, **options)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """All but the patience, which the configuration decides."""
        super().load_state_dict({**state_dict, "patience": self.patience})

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Check, but not in the final validation, which a longer run would not have."""
        if not is_final_validation(trainer):
            super().on_validation_end(trainer, pl_module)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop where the run stopped before."""
        if self.wait_count >= max(1, self.patience):  # 0 counts as 1: a check has to come first
            trainer.should_stop = True
