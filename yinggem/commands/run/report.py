"""What a run prints: at its start what is trained on which text, at its end how good it is and what to type next."""

import logging
import os
import shlex
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl

from yinggem.callbacks.forecast import Forecast
from yinggem.callbacks.loggers.tensorboard import TensorBoard
from yinggem.callbacks.ngram_memory import Memory
from yinggem.callbacks.on_start import OnStart
from yinggem.callbacks.samples import TextSamples
from yinggem.commands.run.hyperparameters import hyperparameters
from yinggem.commands.run.outcome import Outcome
from yinggem.common.errors import UserError
from yinggem.common.files import is_url
from yinggem.common.program import typed
from yinggem.inference.copying import TrainingText
from yinggem.memory.mixture import LEAST_TOKENS
from yinggem.memory.text_stats import text_stats
from yinggem.model.kernels.huge_pages import keep_freed_memory
from yinggem.runs.layout import BEST, METRICS, find_checkpoint
from yinggem.runs.metrics_file import read_metrics
from yinggem.runs.overfitting import ByHeart, learnt_by_heart
from yinggem.runs.result import OBJECTIVE, TEST
from yinggem.runs.resume import Resumption
from yinggem.text.opening import SEARCHED, opening_of
from yinggem.training.datamodule import TextDataModule
from yinggem.training.module import LanguageModule

QUIET = (
    ".*does not have many workers.*",
    ".*Consider setting `persistent_workers=True`.*",
    ".*Checkpoint directory .* exists and is not empty.*",
    ".*is smaller than the logging interval.*",
    ".*Trainer.fit.* stopped.*",
    ".*LeafSpec.*",
    ".*`isinstance\\(treespec, LeafSpec\\)` is deprecated.*",
    ".*overfit_batches.*",
    ".*GPU available but not used.*",
    ".*AMP with fp16 is not supported on CPU.*",  # check_precision refuses it
    ".*callbacks used to create the checkpoint need to be provided.*",  # one that is left out now is meant to be
    ".*not created with WeightAveraging.*",  # the average begins with the weights, as it always does
    ".*sync_dist=True.*",  # what is logged was summed over all processes by the module
)


def silence_libraries() -> None:
    """Hide what libraries say that a user cannot act on; call it before a Trainer is made."""
    for name in ("lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.ERROR)
    for pattern in QUIET:
        warnings.filterwarnings("ignore", pattern)
    warnings.formatwarning = lambda message, *_, **__: f"note: {message}\n"


def prepare_loggers(
    trainer: pl.Trainer, config: dict[str, Any], folder: Path, run: Resumption | None, confirm: Callable[[], None]
) -> None:
    """Once training is sure to start: confirm it, and tell the loggers where it goes on.

    Args:
        run: what is continued; None for a new run.
    """

    def start_writing() -> None:
        if not trainer.fast_dev_run:  # type: ignore[attr-defined]
            confirm()
        for logger in trainer.loggers:
            if run and run.step and hasattr(logger, "resume_at"):
                logger.resume_at(run.step, run.validated)
            if not isinstance(logger, TensorBoard):  # whose table wants the result in the same entry
                logger.log_hyperparams(hyperparameters(config, folder))

    trainer.callbacks.insert(0, OnStart(start_writing))  # type: ignore[attr-defined]


def print_beginning(
    trainer: pl.Trainer, module: LanguageModule, data: TextDataModule, folder: Path, notes: Sequence[str] = ()
) -> None:
    """Print which model is about to be trained on which text, and where; how long it will take follows by itself.

    Args:
        notes: lines that say more.
    """
    keep_freed_memory()
    trainer.callbacks.append(Forecast())  # type: ignore[attr-defined]
    if not trainer.is_global_zero or data.split is None:
        return
    count, config = module.model.parameters_count, module.model.config
    text = data.source if not data.path else data.path if is_url(data.path) else shortest_path(Path(data.path))
    print(
        f"Model      {count:,} parameters: {config.num_hidden_layers} layers of {config.hidden_size}, "
        f"window {config.attention_window or 'full'}\n"
        f"Text       {text}: {data.train_tokens:,} tokens to train on, "
        f"{len(data.split.val):,} to validate ({data.tokenizer.name}, vocabulary of {data.tokenizer.vocab_size:,})\n"
        f"Run        {shortest_path(folder)}",
        *notes,
        sep="\n",
        flush=True,
    )
    interval, steps = trainer.val_check_interval, trainer.max_steps
    if isinstance(interval, int) and 0 < steps < interval and trainer.check_val_every_n_epoch is None:
        print(f"Note       trainer.val_check_interval={interval} is shortened to the {steps} steps of this run.")


def precision_advice(trainer: pl.Trainer, advised: str | None) -> list[str]:
    """A line, where a GPU trains in another precision than its model's recipe advises."""
    if not advised or trainer.strategy.root_device.type != "cuda" or not str(trainer.precision).startswith("32"):
        return []
    return [f"Note       on a GPU trainer.precision={advised} suits this model better: faster, in less memory."]


def memory_advice(trainer: pl.Trainer, data: TextDataModule) -> list[str]:
    """A line, where the text is too short to fit how much the memory is believed."""
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    memory = next((callback for callback in callbacks if isinstance(callback, Memory)), None)
    if memory is None or data.held_out or not memory.held_out or data.split is None:
        return []
    return [
        f"Note       {memory.held_out:.0%} of {data.train_tokens:,} tokens are too few to fit how much the memory is "
        f"believed (more than {LEAST_TOKENS:,} are needed): its weights stay those that suit other small texts."
    ]


def print_outcome(
    outcome: Outcome,
    trainer: pl.Trainer,
    module: LanguageModule,
    data: TextDataModule,
    folder: Path,
    run: Resumption | None,
    began_with: str | None = None,
) -> None:
    """Say how the run ended, how good it is and what to type next.

    Args:
        run: what was continued; None for a new run.
        began_with: init_from.
    """
    if not trainer.is_global_zero:
        return
    if trainer.fast_dev_run:  # type: ignore[attr-defined]
        print("One batch of training and one of validation went well; nothing was saved.")
    if outcome.steps == 0:
        print("No step was taken; raise trainer.max_time or trainer.limit_train_batches.")
    elif run and outcome.steps == run.step:
        limits = "trainer.max_steps, max_epochs or max_time"
        print(f"This run was finished already, after {run.step:,} steps; raise {limits}.")
    if outcome.model is None:
        return
    sampler = next((c for c in trainer.callbacks if isinstance(c, TextSamples)), None)  # type: ignore[attr-defined]
    if sampler is not None:
        text = sampler.text(module, outcome.model, outcome.memory)
        print(f"\n{'─' * 30} a sample {'─' * 30}\n{text.strip()}\n{'─' * 70}")
        if outcome.memory is not None:
            chunks = TrainingText(outcome.memory, module.tokenizer).chunks()
            print(f"There, {text_stats(text, chunks)}.")
    figures, is_best = outcome.figures, outcome.checkpoint is not None and outcome.checkpoint.name == BEST
    print(
        f"\nEnded after {outcome.steps:,} steps: {outcome.ended}.\n"
        f"{'Best' if is_best else 'Last'} validation loss {figures['loss']:.4f} nats per token, "
        f"perplexity {figures['perplexity']:.2f}, {figures['bits_per_byte']:.4f} bits per byte, "
        f"at step {outcome.step:,}."
    )
    if f"{TEST}{OBJECTIVE}" in figures:
        print(f"On the test split, which nothing was chosen by: {figures[f'{TEST}{OBJECTIVE}']:.4f} bits per byte.")
    by_heart = None if data.text_has_changed else learnt_by_heart(read_metrics(folder / METRICS))
    if by_heart:
        print(by_heart_line(by_heart, module, began_with is not None))
    if outcome.counted:
        print(counting_line(outcome, data.train_tokens + data.held_out))
    if outcome.memory is not None:
        whole = len(outcome.memory.ids) >= data.train_tokens + data.held_out  # more: the text was longer then
        held = "the training text" if whole else f"the last {len(outcome.memory.ids):,} tokens of the training text"
        print(f"The checkpoint holds {held}, compressed, for its memory; memory=none leaves it out.")
    print_what_is_there(folder, outcome.checkpoint, data)


def by_heart_line(found: ByHeart, module: LanguageModule, started: bool) -> str:
    """Where learning by heart began, and what helps.

    Args:
        started: whether the run began with weights that were trained.
    """
    dropout = min(0.5, round(module.model.config.dropout + 0.1, 2))
    remedies = [f"trainer.max_steps={found.step}", f"model.dropout={dropout}"]
    remedies += [] if started else ["experiment=finetune, which begins with the starter"]
    return (
        f"From step {found.step:,} on it learnt the training text by heart: validation rose from {found.val[0]:.3f} to "
        f"{found.val[1]:.3f} while training fell from {found.train[0]:.3f} to {found.train[1]:.3f}. The best was kept. "
        f"What may help: {', '.join(remedies[:-1])} or {remedies[-1]}."
    )


def counting_line(outcome: Outcome, tokens: int) -> str:
    """What counting reaches, beside the network's figure."""
    figures = outcome.figures
    part = f" (of its last {outcome.counted:,} tokens)" if outcome.counted < tokens else ""
    alone, together = (figures[f"{who}_bits_per_byte"] for who in ("counting", "together"))
    return (
        f"Counting what stands in the training text{part} reaches {alone:.4f} bits per byte without a network, "
        f"both together {together:.4f}."
    )


def print_what_is_there(folder: Path, best: Path | None, data: TextDataModule) -> None:
    """Name the files of a run and what can be done with them, leaving out those of a callback that was left out."""
    names = ("checkpoints/", "metrics.csv", "loss_curve.png", "samples.txt")
    made = ", ".join(name for name in names if (folder / name).exists())
    lines = [f"Everything is in {shortest_path(folder)}{made and f': {made}'}."]
    commands = []
    if best:
        commands.append(generate_command(best, data))
    if any(folder.glob("events.out.*")):
        commands.append(f"tensorboard --logdir {shlex.quote(shortest_path(folder.parent))}")
    lines += [f"{start}{command}" for start, command in zip(("Next:  ", "       "), commands, strict=False)]
    print("\n".join(lines), flush=True)


def generate_command(checkpoint: Path, data: TextDataModule) -> str:
    """The command that generates from this very checkpoint, with a prompt that its tokenizer can encode."""
    words = typed("generate").split()
    try:
        found = find_checkpoint().resolve() == checkpoint.resolve()
    except UserError:
        found = False
    if not found:  # outputs= is elsewhere, or another run was started meanwhile
        words += ["--checkpoint", shortest_path(checkpoint)]
    assert data.split is not None
    ids = data.split.train if len(data.split.train) else data.split.val
    opening = opening_of(ids[:SEARCHED], data.tokenizer)
    return f"{shlex.join(words)} --prompt {shlex.quote(opening)}" if opening else shlex.join(words)


def shortest_path(folder: Path) -> str:
    """A path as short as it can be typed here."""
    try:
        return os.path.relpath(folder)
    except ValueError:  # another drive
        return str(folder)
