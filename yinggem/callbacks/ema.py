"""An exponential moving average of the weights."""

import warnings
from collections.abc import Sequence
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import WeightAveraging
from lightning.pytorch.strategies import FSDPStrategy, ModelParallelStrategy
from torch import Tensor

from yinggem.common.checks import check_number
from yinggem.common.errors import UserError


class EMA(WeightAveraging):
    """Lightning's WeightAveraging: the average is what is validated, sampled and saved as the weights of a checkpoint.

    The weights that are trained travel beside it, so that a continued run ends with the same bits. After n steps the
    decay is min(decay, (1 + n) / (10 + n)), as in TensorFlow: a short run does not average its beginning.

    Args:
        decay: from 0 (no average) to below 1; it averages over about 1 / (1 - decay) steps.

    Raises:
        UserError: the decay is out of range; the weights have less than 32 bits, in which small updates would be lost,
            or are sharded.
    """

    def __init__(self, decay: float = 0.999) -> None:
        check_number("callbacks.ema.decay", decay, 0, 1, excluded="high")

        def average(averages: Sequence[Tensor], weights: Sequence[Tensor], count: Any) -> None:
            now = min(decay, (1 + int(count)) / (10 + int(count)))
            torch._foreach_lerp_(list(averages), list(weights), 1 - now)

        super().__init__(use_buffers=False, multi_avg_fn=average)

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Copy the weights."""
        if any(weights.dtype.itemsize < 4 for weights in pl_module.parameters()):
            raise UserError("callbacks.ema needs weights of 32 bits; use trainer.precision=bf16 instead of bf16-true.")
        if isinstance(trainer.strategy, ModelParallelStrategy | FSDPStrategy):
            raise UserError("callbacks.ema cannot average sharded weights; use trainer=ddp, or leave it out.")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that a module which can shard its weights does not do so here
            super().setup(trainer, pl_module, stage)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Put the average in place: until the samples are drawn too, where Lightning's ends with the epoch."""
        super().on_validation_epoch_start(trainer, pl_module)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Put the weights back that are trained, before a checkpoint is written."""
        super().on_validation_epoch_end(trainer, pl_module)

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Nothing: see `on_validation_start`."""

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Nothing: see `on_validation_end`."""

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Leave the weights as they are: a last checkpoint must hold both."""
