"""The loss curve, redrawn while a model trains."""

import contextlib
import gc
import time
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback

from yinggem.common.files import write_atomically
from yinggem.runs.metrics_file import STEP, read_metrics

SECONDS_BETWEEN = 5.0  # drawing takes a tenth of a second: not at each of many short validations


class LossCurve(Callback):
    """Draws loss_curve.png from metrics.csv: training, validation, and the best point.

    It is redrawn at a validation, every few seconds at most, and when training ends, however it ends.
    """

    def __init__(self, dirpath: str) -> None:
        self.folder, self.drawn = Path(dirpath), 0.0

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Wait for the first few seconds."""
        self.drawn = time.monotonic()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Redraw, unless it was done a moment ago."""
        if time.monotonic() - self.drawn >= SECONDS_BETWEEN:
            self._draw(trainer)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draw all of it."""
        self._draw(trainer)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Draw what there is."""
        with contextlib.suppress(OSError):  # what ended the run may be a full disk, and is what is reported
            self._draw(trainer)

    def _draw(self, trainer: pl.Trainer) -> None:
        if trainer.sanity_checking or trainer.state.fn != "fit" or not trainer.is_global_zero or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        for logger in trainer.loggers:
            logger.save()
        draw_loss_curve(self.folder)
        self.drawn = time.monotonic()
        gc.collect()  # a figure is a web of cycles; left to Python, hundreds of them pile up


def draw_loss_curve(folder: Path) -> Path | None:
    """Draw `folder`/loss_curve.png from its metrics.csv; None when there is nothing to draw."""
    from matplotlib.figure import Figure  # without pyplot: no window system, nothing kept between drawings

    rows = read_metrics(folder / "metrics.csv")
    train = [(row[STEP], row["train/loss"]) for row in rows if "train/loss" in row]
    val = [(row[STEP], row["val/loss"]) for row in rows if "val/loss" in row]
    if not val:
        return None
    figure = Figure(figsize=(7, 4.2), dpi=110)
    axes = figure.add_axes((0.1, 0.12, 0.87, 0.84))  # room for the labels; a layout engine draws everything twice
    if train:
        axes.plot(*zip(*train, strict=True), color="#9db4c8", linewidth=1, label="train/loss")
    axes.plot(*zip(*val, strict=True), color="#14507d", marker=".", label="val/loss")
    step, best = min(val, key=lambda point: point[1])
    axes.plot(step, best, "o", color="#c8501e", label=f"best: {best:.4f} at step {step:,.0f}")
    axes.set(xlabel="optimizer steps", ylabel="nats per token")
    axes.grid(alpha=0.25)
    axes.legend()
    path = folder / "loss_curve.png"

    def save(file: Any) -> None:
        figure.savefig(file, format="png")

    write_atomically(path, save)
    return path
