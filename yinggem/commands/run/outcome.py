"""What came of a run: how good its best checkpoint is and why it ended, for its folder, its loggers and its caller."""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import EarlyStopping, Timer

from yinggem.callbacks.forecast import max_time
from yinggem.callbacks.loggers.metrics_csv import MetricsCSV
from yinggem.callbacks.loggers.tensorboard import TensorBoard
from yinggem.callbacks.ngram_memory import Memory
from yinggem.commands.run.hyperparameters import hyperparameters, main_hyperparameters
from yinggem.inference.checkpoint import load_model
from yinggem.inference.counting import evaluate_with_counting
from yinggem.inference.evaluation import evaluate
from yinggem.inference.files.stored_model import read_model
from yinggem.memory.ngram_memory import COUNTED_TOKENS, NgramMemory
from yinggem.model.transformer import Transformer
from yinggem.runs.layout import BEST, LAST, checkpoint
from yinggem.runs.result import OBJECTIVE, TEST, write_result
from yinggem.text.tokens.token_array import TokenArray
from yinggem.training.datamodule import TextDataModule
from yinggem.training.module import LanguageModule


@dataclass(frozen=True)
class Outcome:
    """What came of a run.

    Args:
        objective: bits per byte of the validation text, which searches minimise: the one figure that can be compared
            across tokenizers.
        ended: why the run ended, as half a sentence.
        steps: optimizer steps of the run.
        model: what was evaluated; None with trainer.fast_dev_run, and in every process but the first.
        step: the optimizer step after which its weights were taken.
        checkpoint: its file; None where no checkpoint was wanted, so that it is the last weights.
        figures: as `Evaluation.to_dict`, or `Comparison.to_dict` where counting was measured as well; where there is a
            test split, its figures too, under the same names behind `TEST`.
        counted: tokens of the training split that were counted; 0 where none were.
        memory: of the checkpoint, which then holds the training text.
    """

    objective: float
    ended: str
    steps: int
    model: Transformer | None = None
    step: int = 0
    checkpoint: Path | None = None
    figures: dict[str, float] = field(default_factory=dict)
    counted: int = 0
    memory: NgramMemory | None = None


def evaluate_run(
    trainer: pl.Trainer, module: LanguageModule, data: TextDataModule, folder: Path, baseline: bool = True
) -> Outcome:
    """Evaluate the best checkpoint on the whole validation text; the last weights where no checkpoint was wanted.

    Args:
        baseline: whether to measure what counting the training text reaches, too.
    """
    ended, steps = why_it_ended(trainer), trainer.global_step
    monitored = float(trainer.callback_metrics.get("val/bits_per_byte", math.nan))
    if trainer.fast_dev_run or data.split is None:  # type: ignore[attr-defined]
        return Outcome(monitored, ended, steps)
    kept = checkpoint(folder, BEST, LAST)
    if kept is None:
        model = module.whole_model().eval()  # on every process
    if not trainer.is_global_zero:
        return Outcome(monitored, ended, steps)
    step, memory = steps, memory_of_run(trainer)
    if kept is not None:
        stored = read_model(kept)
        model, _ = load_model(kept, module.device, stored=stored)
        step, memory = int(stored.content["global_step"]), stored.memory
    split, sizes = data.split, (data.eval_context_length, data.eval_batch_size)
    counts = memory if baseline else None
    if counts is None and baseline and len(split.train):  # that of token shards at a URL is never read whole
        counts = NgramMemory(split.train[-COUNTED_TOKENS:], data.tokenizer.vocab_size)

    def measured(ids: TokenArray) -> dict[str, float]:
        if counts is None:
            return evaluate(model, ids, split.token_bytes, *sizes).to_dict()
        return evaluate_with_counting(model, ids, split.token_bytes, *sizes, counts).to_dict()

    figures = measured(split.val)
    if split.test is not None:  # the one time that anything looks at it
        figures |= {f"{TEST}{name}": value for name, value in measured(split.test).items()}
    counted = len(counts.counted) if counts else 0
    return Outcome(figures["bits_per_byte"], ended, steps, model, step, kept, figures, counted, memory)


def memory_of_run(trainer: pl.Trainer) -> NgramMemory | None:
    """The memory that the run trains with; None where there is none."""
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    return next((callback.memory for callback in callbacks if isinstance(callback, Memory)), None)


def why_it_ended(trainer: pl.Trainer) -> str:
    """Half a sentence that names the setting which ended the run."""
    epochs, callbacks = trainer.fit_loop.epoch_progress.current.processed, trainer.callbacks  # type: ignore[attr-defined]
    if trainer.fast_dev_run:  # type: ignore[attr-defined]
        return "trainer.fast_dev_run is one batch"
    if trainer.global_step == trainer.max_steps:
        return f"trainer.max_steps={trainer.max_steps} is reached"
    if trainer.max_epochs is not None and 0 < trainer.max_epochs <= epochs:
        return f"trainer.max_epochs={trainer.max_epochs} is reached"
    for callback in callbacks:
        if isinstance(callback, EarlyStopping) and callback.wait_count >= max(1, callback.patience):
            times, patience = callback.wait_count, callback.patience
            return (
                f"{callback.monitor} did not improve in {times} validation{'s' * (times > 1)} "
                f"(callbacks.early_stopping.patience={patience})"
            )
        if isinstance(callback, EarlyStopping) and callback.stopping_reason_message:
            return callback.stopping_reason_message.rstrip(".")
    for callback in callbacks:
        left = callback.time_remaining() if isinstance(callback, Timer) else None
        if left is not None and left <= 0:
            return f"trainer.max_time={max_time(callback)} is over"
    return "a callback asked for the end" if trainer.should_stop else "there was nothing to train on"


def record_outcome(outcome: Outcome, trainer: pl.Trainer, config: dict[str, Any], folder: Path) -> None:
    """Write it to result.json and to the loggers, as the last entry of the run."""
    if not outcome.figures:
        return
    ran = {"steps": outcome.steps, "best_step": outcome.step, "ended": outcome.ended}
    counted = {"counted_tokens": outcome.counted} if outcome.counted else {}
    write_result(folder, outcome.figures | counted | ran)
    results = {f"final/{name}": outcome.figures[name] for name in ("loss", "perplexity", "bits_per_byte")}
    results |= {name: value for name, value in outcome.figures.items() if name == f"{TEST}{OBJECTIVE}"}
    parameters = main_hyperparameters(hyperparameters(config, folder), folder)
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoard):
            logger.log_hyperparams(parameters, results, trainer.global_step)
        elif not isinstance(logger, MetricsCSV):  # which holds curves only
            logger.log_metrics(results, trainer.global_step)
        if hasattr(logger, "close"):
            logger.close()
