"""The validation at the end of a run.

Every run ends with a validation. Where none is due at its last step, one is added: the final validation. It counts for
best.ckpt and the summary, not for patience, and it leaves no trace in the state that a longer run goes on from, so that
a run that is made longer ends with the same bits as one that was that long from the beginning.
"""

from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl

if TYPE_CHECKING:
    from yinggem.training.trainer import Trainer


def is_final_validation(trainer: pl.Trainer) -> bool:
    """Whether the validation under way is the one that was added at the end of the run."""
    return bool(getattr(trainer, "in_final_validation", False))  # a plain Lightning trainer never adds one


def validate_at_the_end(trainer: "Trainer") -> None:
    """Validate the weights of the last step, unless that was done at the step itself."""
    module: Any = trainer.lightning_module
    validated = module.validated_step == trainer.global_step
    if validated or not trainer.global_step or not trainer.enable_validation or trainer.fast_dev_run:  # type: ignore[attr-defined]
        return
    for logger in trainer.loggers:
        logger.save()  # the figures of the validation become rows of their own, which a longer run can drop
    loop = trainer.fit_loop.epoch_loop.val_loop
    loop.restarting = False
    trainer.in_final_validation = trainer.validating = True
    try:
        loop.run()
    finally:
        trainer.in_final_validation = False
        trainer.training = True
