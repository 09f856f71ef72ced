"""Short runs before the run, whose model, data and trainer are thrown away."""

import contextlib
import io
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any

from yinggem.training.datamodule import TextDataModule
from yinggem.training.module import LanguageModule
from yinggem.training.trainer import Trainer

Build = Callable[[Any], tuple[Any, LanguageModule, TextDataModule]]  # configuration -> trainer, module, data
STEPS = 100  # of a trial
SKIP_ALL = 1 << 30  # steps that may go bad
OPTIONS = ("accelerator", "precision", "gradient_clip_val", "gradient_clip_algorithm", "accumulate_grad_batches")


def options_of(cfg: Any) -> dict[str, Any]:
    """The options of the run's trainer that a trial must share."""
    return {name: cfg.trainer[name] for name in OPTIONS}


def trial_trainer(**options: Any) -> Trainer:
    """A trainer on one device that leaves nothing behind."""
    return Trainer(
        devices=1, max_epochs=-1, max_steps=STEPS, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, num_sanity_val_steps=0, limit_val_batches=0, **options,
    )  # fmt: skip


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Hides the warnings of Lightning's searches, and their bar unless there is a terminal."""
    with warnings.catch_warnings(), contextlib.ExitStack() as stack:
        warnings.simplefilter("ignore")
        if not sys.stderr.isatty():
            stack.enter_context(contextlib.redirect_stderr(io.StringIO()))
        yield
