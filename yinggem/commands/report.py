"""What a run says: at its beginning what is trained on what, at its end how good it is and what to type next."""

import logging
import math
import os
import shlex
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl

from yinggem.callbacks.loggers import MetricsCSV, TensorBoard
from yinggem.callbacks.on_train_start import OnTrainStart
from yinggem.callbacks.samples import TextSamples
from yinggem.common.errors import UserError
from yinggem.common.files import is_url
from yinggem.inference.checkpoint import load_model
from yinggem.inference.evaluation import evaluate
from yinggem.model.kernels.huge_pages import keep_freed_memory
from yinggem.runs.layout import find_checkpoint
from yinggem.runs.record import read_overrides
from yinggem.runs.result import write_result
from yinggem.training.datamodule import TextDataModule
from yinggem.training.module import LanguageModule

QUIET = (
    ".*does not have many workers.*",
    ".*Checkpoint directory .* exists and is not empty.*",
    ".*is smaller than the logging interval.*",
    ".*Trainer.fit.* stopped.*",
    ".*LeafSpec.*",
    ".*`isinstance\\(treespec, LeafSpec\\)` is deprecated.*",
    ".*overfit_batches.*",
    ".*GPU available but not used.*",
    ".*AMP with fp16 is not supported on CPU.*",  # check_precision refuses it
    ".*sync_dist=True.*",  # what is logged was summed over all processes by the module
)

MAIN = ("model.hidden_size", "model.num_hidden_layers", "optimizer.lr")


def be_quiet() -> None:
    """Hide what libraries say that a user cannot act on; call it before a Trainer is made."""
    for name in ("lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.ERROR)
    for pattern in QUIET:
        warnings.filterwarnings("ignore", pattern)
    warnings.formatwarning = lambda message, *_, **__: f"note: {message}\n"


def begin(
    trainer: pl.Trainer,
    module: LanguageModule,
    data: TextDataModule,
    folder: Path,
    config: Any,
    start: int,
    confirm: Callable[[], None],
) -> None:
    """Say what is about to happen; once training is sure to start, confirm it and let the loggers go on."""
    keep_freed_memory()

    def start_writing() -> None:
        if not trainer.fast_dev_run:  # type: ignore[attr-defined]
            confirm()
        for logger in trainer.loggers:
            if start > 0 and hasattr(logger, "resume_at"):
                logger.resume_at(start)
            if not isinstance(logger, TensorBoard):  # whose table wants the result in the same entry
                logger.log_hyperparams(hyperparameters(config, folder))

    trainer.callbacks.insert(0, OnTrainStart(start_writing))  # type: ignore[attr-defined]
    if not trainer.is_global_zero or data.split is None:
        return
    count, model = module.model.parameters_count, module.model.config
    text = data.source if not data.path else data.path if is_url(data.path) else shown(Path(data.path))
    print(
        f"Model      {count:,} parameters: {model.num_hidden_layers} layers of {model.hidden_size}, "
        f"window {model.attention_window or 'full'}\n"
        f"Text       {text}: {data.train_tokens:,} tokens to train on, "
        f"{len(data.split.val):,} to validate ({data.tokenizer.name}, {data.tokenizer.vocab_size:,} kinds)\n"
        f"Run        {shown(folder)}",
        flush=True,
    )


def finish(
    trainer: pl.Trainer, module: LanguageModule, data: TextDataModule, folder: Path, config: Any, start: int = -1
) -> float:
    """Evaluate and sample the best checkpoint, log hyper-parameters with the result; returns its loss.

    Where no checkpoint was wanted it is the last weights.

    Args:
        start: the step that the run was continued from.
    """
    if trainer.is_global_zero and trainer.fast_dev_run:  # type: ignore[attr-defined]
        print("One batch of training and one of validation went well; nothing was saved.")
    if trainer.is_global_zero and trainer.global_step == 0:
        print("No step was taken; raise trainer.max_time or trainer.limit_train_batches.")
    elif trainer.is_global_zero and trainer.global_step == start:
        print(f"This run was finished already, after {start:,} steps; raise trainer.max_steps, max_epochs or max_time.")
    best = next((folder / "checkpoints" / name for name in ("best.ckpt", "last.ckpt")
                 if (folder / "checkpoints" / name).exists()), None)  # fmt: skip
    if trainer.fast_dev_run or data.split is None:  # type: ignore[attr-defined]
        return float(trainer.callback_metrics.get("val/loss", math.nan))
    if best is None:
        model = module.whole_model().eval()  # on every process
    if not trainer.is_global_zero:
        return float(trainer.callback_metrics.get("val/loss", math.nan))
    if best is not None:
        model, _ = load_model(best, module.device)
    figures = evaluate(
        model, data.split.val, data.split.token_bytes, data.eval_context_length, data.eval_batch_size
    ).to_dict()
    results = {f"final/{name}": figures[name] for name in ("loss", "perplexity", "bits_per_byte")}
    log_results(trainer, columns(hyperparameters(config, folder), folder), results)
    write_result(folder, figures | {"steps": trainer.global_step})
    sampler = next((c for c in trainer.callbacks if isinstance(c, TextSamples)), None)  # type: ignore[attr-defined]
    if sampler is not None:
        print(f"\n{'─' * 30} a sample {'─' * 30}\n{sampler.text(module, model).strip()}\n{'─' * 70}")
    print(
        f"\n{'Best' if best else 'Last'} validation loss {figures['loss']:.4f} nats per token, "
        f"perplexity {figures['perplexity']:.2f}, {figures['bits_per_byte']:.4f} bits per byte, "
        f"after {trainer.global_step:,} steps."
    )
    show_what_is_there(folder, best, data)
    return float(figures["loss"])


def show_what_is_there(folder: Path, best: Path | None, data: TextDataModule) -> None:
    """Name the files of a run and what can be done with them, leaving out those of a callback that was left out."""
    names = ("checkpoints/", "metrics.csv", "loss_curve.png", "samples.txt")
    made = ", ".join(name for name in names if (folder / name).exists())
    lines = [f"Everything is in {shown(folder)}{made and f': {made}'}."]
    commands = []
    if best:
        commands.append(generating(best, data))
    if any(folder.glob("events.out.*")):
        commands.append(f"tensorboard --logdir {shlex.quote(shown(folder.parent))}")
    lines += [f"{start}{command}" for start, command in zip(("Next:  ", "       "), commands, strict=False)]
    print("\n".join(lines), flush=True)


def generating(checkpoint: Path, data: TextDataModule) -> str:
    """The command that generates from this very checkpoint, with a prompt that its tokenizer can encode."""
    words = ["python", "generate.py"]
    try:
        found = find_checkpoint().resolve() == checkpoint.resolve()
    except UserError:
        found = False
    if not found:  # outputs= is elsewhere, or another run was started meanwhile
        words += ["--checkpoint", shown(checkpoint)]
    opening = "ROMEO."
    try:
        data.tokenizer.encode(opening)
    except UserError:  # characters that are not in a text of the user's own
        return shlex.join(words)
    return f"{shlex.join(words)} --prompt '{opening}'"


def log_results(trainer: pl.Trainer, parameters: dict[str, Any], results: dict[str, float]) -> None:
    """Tell the trackers what the run came to, as the last they hear of it; metrics.csv holds curves only."""
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoard):
            logger.log_hyperparams(parameters, results, trainer.global_step)
        elif not isinstance(logger, MetricsCSV):
            logger.log_metrics(results, trainer.global_step)
        if hasattr(logger, "close"):
            logger.close()


def hyperparameters(config: dict[str, Any], folder: Path) -> dict[str, Any]:
    """What decides a result, by dotted name: numbers, words and truth values, as trackers want them."""
    groups = ("model", "tokenizer", "data", "optimizer", "scheduler")
    choices = {name: value for name, value in typed(folder).items() if name in groups}
    values: dict[str, Any] = {"seed": config["seed"]} | choices
    for group in groups:
        values |= {f"{group}.{name}": value for name, value in config[group].items() if not name.startswith("_")}
    return {name: value if isinstance(value, int | float | str) else str(value) for name, value in values.items()}


def columns(parameters: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Few enough for TensorBoard's table, which shows the first five by name: what was typed, and the main ones."""
    names = {*MAIN, *typed(folder)} - {"data", "data.path"}
    return {name: parameters[name] for name in sorted(names) if name in parameters}


def typed(folder: Path) -> dict[str, str]:
    """The settings of the command line: in a sweep, what its runs differ in."""
    return dict(line.lstrip("+").partition("=")[::2] for line in read_overrides(folder))


def shown(folder: Path) -> str:
    """A path as short as it can be typed here."""
    try:
        return os.path.relpath(folder)
    except ValueError:  # another drive
        return str(folder)
