"""Text samples, drawn while a model trains."""

import re
from dataclasses import replace
from pathlib import Path

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger

from yinggem.common.checks import check_whole_number
from yinggem.common.errors import UserError
from yinggem.common.files import append_text, write_atomically
from yinggem.inference.completion import complete_text, prompt_ids
from yinggem.inference.memory_step import memory_steps
from yinggem.inference.networks.opening import network_of
from yinggem.inference.sampling import Sampling, default_repetition_penalty
from yinggem.memory.ngram_memory import NgramMemory
from yinggem.model.transformer import Transformer
from yinggem.text.opening import SEARCHED, opening_of
from yinggem.training.datamodule import TextDataModule
from yinggem.training.final_validation import is_final_validation
from yinggem.training.module import LanguageModule


class TextSamples(Callback):
    """A generated sample at every validation, in samples.txt and as text in TensorBoard.

    Args:
        dirpath: the folder of samples.txt.
        prompt: text to continue; empty starts from a newline, and asks a model of pairs one of the text's own prompts.
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
            remedy = "leave the callback out with ~callbacks.samples"
            check_whole_number(f"callbacks.samples.{name}", value, least, most, remedy=remedy)
        self.path = Path(dirpath) / "samples.txt"
        self.prompt, self.max_new_tokens, self.seed = "" if prompt is None else str(prompt), max_new_tokens, seed
        try:
            self.sampling = Sampling(temperature=temperature, top_p=top_p)
        except UserError as error:
            raise UserError(f"callbacks.samples.{error}") from None

    def text(self, module: LanguageModule, model: Transformer, memory: NgramMemory | None = None) -> str:
        """One sample of `model`, the module's own or another with its tokenizer, and of its memory."""
        sampling = replace(self.sampling, repetition_penalty=default_repetition_penalty(module.tokenizer.name))
        (steps,) = memory_steps(memory, module.tokenizer, self.prompt, 1)
        completion = complete_text(
            network_of(model), module.tokenizer, self.prompt, self.max_new_tokens, sampling, self.seed, steps
        )
        return self.prompt + ("" if module.tokenizer.template is None else "\n") + completion

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuse a prompt that cannot be continued now, not hours later."""
        assert isinstance(pl_module, LanguageModule)
        data = trainer.datamodule  # type: ignore[attr-defined]
        if pl_module.tokenizer.template is not None and not self.prompt and isinstance(data, TextDataModule):
            assert data.split is not None
            self.prompt = opening_of(data.split.val[:SEARCHED], pl_module.tokenizer)
        prompt_ids(pl_module.tokenizer, self.prompt)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Drop the samples that a continued run will draw again."""
        if trainer.is_global_zero and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            assert isinstance(pl_module, LanguageModule)
            step = trainer.global_step
            if pl_module.validated_step != step:  # one of this step is from the final validation
                step -= 1
            self._trim(step)

    def _trim(self, step: int) -> None:
        if self.path.exists():
            text = self.path.read_bytes().decode(errors="surrogateescape")  # the last sample may be cut anywhere
            write_atomically(self.path, trim_samples(text, step).encode(errors="surrogateescape"))

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draw and write one."""
        if trainer.sanity_checking or trainer.state.fn != "fit" or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        assert isinstance(pl_module, LanguageModule)
        model = pl_module.whole_model()  # on every process
        if not trainer.is_global_zero:
            return
        if is_final_validation(trainer):
            self._trim(trainer.global_step - 1)  # a run that was finished already validates its end again
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
