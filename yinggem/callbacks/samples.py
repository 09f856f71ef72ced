"""What a person looks at while a model trains: text samples, the loss curve; when to stop."""

import gc
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger

from yinggem.common.errors import UserError
from yinggem.common.files import append_text, write_atomically
from yinggem.inference.completion import complete_text, prompt_ids
from yinggem.inference.sampling import Sampling, default_repetition_penalty
from yinggem.model.transformer import Transformer
from yinggem.runs.metrics import STEP, read_metrics
from yinggem.training.module import VALIDATED, LanguageModule


def check_monitors(callbacks: list[Callback]) -> None:
    """Refuse a figure to monitor that nobody measures, before a run waits for it until its first validation.

    Raises:
        UserError: there is one. With callbacks of the user's own there may be figures of theirs, and no telling.
    """
    if not all(type(callback).__module__.startswith(("yinggem.", "lightning.")) for callback in callbacks):
        return
    for callback in callbacks:
        monitor = getattr(callback, "monitor", None)
        if monitor is not None and monitor not in VALIDATED:
            raise UserError(
                f"No figure named {monitor!r} is measured, for {type(callback).__name__} to monitor; "
                f"choose {', '.join(VALIDATED[:-1])} or {VALIDATED[-1]}."
            )


class TextSamples(Callback):
    """A generated sample at every validation, in samples.txt and as text in TensorBoard.

    Args:
        dirpath: the folder of samples.txt.
        prompt: text to continue; empty starts from a newline.
        max_new_tokens, temperature, top_p, seed: as generate.py.

    Raises:
        UserError: a value is out of range; later, before the first step: the tokenizer cannot encode the prompt.
    """

    def __init__(
        self,
        dirpath: str,
        prompt: str | None = "",
        max_new_tokens: int = 200,
        temperature: float = 0.9,
        top_p: float | None = 0.85,
        seed: int = 0,
    ) -> None:
        for name, value, least, most in (("max_new_tokens", max_new_tokens, 1, 1 << 31), ("seed", seed, 0, 1 << 62)):
            if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
                raise UserError(
                    f"callbacks.samples.{name} must be a whole number from {least} to {most}, not {value!r}; "
                    "leave the callback out with ~callbacks.samples."
                )
        self.path = Path(dirpath) / "samples.txt"
        self.prompt, self.max_new_tokens, self.seed = "" if prompt is None else str(prompt), max_new_tokens, seed
        try:
            self.sampling = Sampling(temperature=temperature, top_p=top_p)
        except UserError as error:
            raise UserError(f"callbacks.samples.{error}") from None

    def text(self, module: LanguageModule, model: Transformer) -> str:
        """One sample of `model`, the module's own or another with its tokenizer."""
        sampling = replace(self.sampling, repetition_penalty=default_repetition_penalty(module.tokenizer.name))
        return self.prompt + complete_text(
            model, module.tokenizer, self.prompt, self.max_new_tokens, sampling, self.seed
        )

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuse a prompt that cannot be continued now, not hours later."""
        assert isinstance(pl_module, LanguageModule)
        prompt_ids(pl_module.tokenizer, self.prompt)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Drop the samples that a continued run will draw again."""
        if trainer.is_global_zero and self.path.exists() and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            text = self.path.read_bytes().decode(errors="surrogateescape")  # the last sample may be cut anywhere
            write_atomically(self.path, trim_samples(text, trainer.global_step).encode(errors="surrogateescape"))

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draw and write one."""
        if trainer.sanity_checking or trainer.state.fn != "fit" or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        assert isinstance(pl_module, LanguageModule)
        model = pl_module.whole_model()  # on every process
        if not trainer.is_global_zero:
            return
        text = self.text(pl_module, model)
        append_text(self.path, f"=== step {trainer.global_step} ===\n{text.strip()}\n\n")
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                indented = "\n".join("    " + line for line in text.splitlines())  # Markdown for text as it is
                logger.experiment.add_text("sample", indented, trainer.global_step)


def trim_samples(text: str, step: int) -> str:
    """The samples drawn up to `step`."""
    parts = re.split(r"^(?==== step \d+ ===$)", text, flags=re.MULTILINE)
    kept = [part for part in parts if (match := re.match(r"=== step (\d+) ===", part)) and int(match[1]) <= step]
    return "".join(kept)


class LossCurve(Callback):
    """Draws loss_curve.png at every validation from metrics.csv: training, validation, and the best point."""

    def __init__(self, dirpath: str) -> None:
        self.folder = Path(dirpath)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Redraw."""
        if trainer.sanity_checking or trainer.state.fn != "fit" or not trainer.is_global_zero or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        for logger in trainer.loggers:
            logger.save()
        draw_loss_curve(self.folder)
        gc.collect()  # a figure is a web of cycles; left to Python, hundreds of them pile up


def draw_loss_curve(folder: Path) -> Path | None:
    """Draw `folder`/loss_curve.png from its metrics.csv; None when there is nothing to draw."""
    from matplotlib.figure import Figure  # without pyplot: no window system, nothing kept between drawings

    rows = read_metrics(folder / "metrics.csv")
    train = [(row[STEP], row["train/loss"]) for row in rows if "train/loss" in row]
    val = [(row[STEP], row["val/loss"]) for row in rows if "val/loss" in row]
    if not val:
        return None
    figure = Figure(figsize=(7, 4.2), dpi=110, layout="constrained")
    axes = figure.add_subplot()
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


class EarlyStopping(pl.callbacks.EarlyStopping):
    """Lightning's, that knows in a continued run when it has stopped already, and lets the patience be changed.

    Raises:
        UserError: the patience is no whole number from 0 on.
    """

    def __init__(self, monitor: str, patience: int = 3, **options: Any) -> None:
        if not isinstance(patience, int) or isinstance(patience, bool) or patience < 0:
            raise UserError(
                f"callbacks.early_stopping.patience must be a whole number of validations from 0 on, not {patience!r}; "
                "leave the callback out with ~callbacks.early_stopping."
            )
        super().__init__(monitor, patience=patience, **options)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """All but the patience, which the configuration decides."""
        super().load_state_dict({**state_dict, "patience": self.patience})

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop where the run stopped before."""
        if self.wait_count >= max(1, self.patience):  # 0 counts as 1: a check has to come first
            trainer.should_stop = True
