"""Lightning's loop over the batches of an epoch, validating where optimizer steps end and counting in them."""

from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop


class EpochLoop(_TrainingEpochLoop):
    """The rule: what happens at intervals happens after an optimizer step, and its interval counts optimizer steps.

    Lightning counts batches. With accumulate_grad_batches it would validate, and checkpoints would be taken, between
    the batches of one step, whose gradients no checkpoint holds: a continued run would end with other bits.

    Lightning also validates as soon as a run is asked to stop; that is left to the final validation.

    Args:
        interval: between validations: a number of steps of the run (where check_val_every_n_epoch is None), a number of
            steps within each epoch, or a part of an epoch, which is rounded down to whole steps.
    """

    def __init__(self, trainer: pl.Trainer, min_steps: int | None, max_steps: int, interval: int | float) -> None:
        super().__init__(trainer, min_steps, max_steps)
        self.interval = interval

    def reset(self) -> None:
        """Begin an epoch, or go on in one; then the batches that are done are counted in those of this run."""
        if self.restarting:
            self._count_batches_of_this_size()
        super().reset()

    def _count_batches_of_this_size(self) -> None:
        """A checkpoint counts batches of the size they had; with another size as many windows are other batches."""
        loaders = self.trainer.fit_loop._combined_loader
        done = [loader.batches_done for loader in getattr(loaders, "flattened", []) if hasattr(loader, "batches_done")]
        current = self.batch_progress.current
        if done and done[0] != current.ready:
            change = done[0] - current.ready
            for name in ("ready", "started", "processed", "completed"):
                setattr(current, name, getattr(current, name) + change)

    def _should_check_val_fx(self, data_fetcher: Any) -> bool:
        trainer, last = self.trainer, self._num_ready_batches_reached()
        if not self._should_check_val_epoch() or self._should_accumulate():
            return False
        every, within_epochs = self.interval, trainer.check_val_every_n_epoch is not None
        if isinstance(every, int) and not within_epochs:
            return self.global_step % every == 0
        if trainer.num_training_batches == float("inf"):
            return last
        steps = -(-int(trainer.num_training_batches) // trainer.accumulate_grad_batches)  # of an epoch
        taken = -(-self.batch_progress.current.ready // trainer.accumulate_grad_batches)
        every = min(every, steps) if isinstance(every, int) else max(1, int(steps * every))
        return taken % every == 0
