"""What is exported: a checkpoint that was read, and what is known of it."""

import os
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any

from yinggem.common.errors import UserError
from yinggem.inference.checkpoint import load_model
from yinggem.inference.evaluation import trained_context_length
from yinggem.inference.files.stored_model import read_model
from yinggem.memory.ngram_memory import NgramMemory
from yinggem.model.config import ModelConfig
from yinggem.model.quantization import quantization_of
from yinggem.model.transformer import Transformer
from yinggem.runs.layout import BEST, LAST, checkpoint, run_of
from yinggem.runs.result import read_result
from yinggem.text.tokenizer import Tokenizer

# Settings of training alone: what was learnt does not depend on them any more.
TRAINING = {"dropout", "attention_dropout", "initializer_range"}


@dataclass(frozen=True)
class Source:
    """A model to export.

    Args:
        path: of its checkpoint.
        context_length: tokens of a window that it was trained with.
        data: what the checkpoint says of its text, as `TextRecord.to_dict`; the path is a name without folders, for
            where a text lay is nobody else's business. None: nothing.
        memory: what goes with it; None where it has none, or nobody asked for it.
        figures: what its run measured, as `Comparison.to_dict`; {} where that is not known.
        license: of the weights, as its model card names it.
        run: the folder of the run whose best or last checkpoint it is; None where that is not known.
        step: optimizer steps that it was trained for; None where that is not known.
    """

    path: Path
    model: Transformer
    tokenizer: Tokenizer
    context_length: int
    data: dict[str, Any] | None = None
    memory: NgramMemory | None = None
    figures: dict[str, Any] = field(default_factory=dict)
    license: str = "unknown"
    run: Path | None = None
    step: int | None = None

    @property
    def config(self) -> ModelConfig:
        """The architecture."""
        return self.model.config

    @cached_property
    def about_text(self) -> dict[str, Any]:
        """What a checkpoint says beside architecture and tokenizer."""
        return {"context_length": self.context_length} | ({"data": self.data} if self.data else {})

    def require(self, format_name: str, expressible: set[str], instead: str) -> None:
        """Refuse what a format of floats cannot express.

        Args:
            expressible, instead: as for `require_settings`.

        Raises:
            UserError: the model has such a setting or a template for prompts, or its weights are integers.
        """
        if self.tokenizer.turn_id is not None:  # a template for prompts, which only `yinggem` applies
            raise cannot_express(format_name, "data.format=pairs", "--format safetensors or html")
        if kind := quantization_of(self.model):
            raise UserError(
                f"{self.path} is quantized ({kind}), and --format {format_name} holds floats; export the checkpoint it "
                "was made from, or use --format safetensors."
            )
        self.require_settings(format_name, expressible, instead)

    def require_settings(self, format_name: str, expressible: set[str], instead: str) -> None:
        """Refuse a model with a setting that a format cannot express, settings of later versions included.

        Args:
            expressible: fields of `ModelConfig` that the format has a place for, whatever their value.
            instead: the formats that can express it.

        Raises:
            UserError: it has such a setting.
        """
        for one in fields(ModelConfig):
            value = getattr(self.config, one.name)
            if one.name not in expressible | TRAINING and value != one.default:
                raise cannot_express(format_name, f"model.{one.name}={value}", instead)


def cannot_express(format_name: str, setting: str, instead: str) -> UserError:
    """The error that a format has no place for a setting."""
    setting = setting.replace("=True", "=true").replace("=False", "=false").replace("=None", "=null")
    return UserError(f"--format {format_name} cannot express {setting}; use {instead}.")


def read_source(path: Path, with_memory: bool = False, license_name: str = "unknown") -> tuple[Source, bool]:
    """What a checkpoint holds, and whether a memory was left behind.

    Raises:
        UserError: as `read_model`; `with_memory`, and there is none.
    """
    stored = read_model(path)
    model, tokenizer = load_model(path, stored=stored)
    has_memory = stored.content.get("memory") is not None
    if with_memory and not has_memory:
        raise UserError(f"{path} has no memory; leave --with-memory out.")
    memory = stored.memory if with_memory else None
    data = stored.entry.get("data")
    if isinstance(data, dict) and isinstance(data.get("path"), str):
        data = data | {"path": os.path.basename(data["path"].rstrip("/\\"))}
    run = run_of(path) if checkpoint(run_of(path), BEST, LAST) == path else None
    figures = read_result(run) if run else {}
    context_length, step = trained_context_length(stored.entry), stored.content.get("global_step")
    source = Source(path, model, tokenizer, context_length, data, memory, figures, license_name, run, step)
    return source, not with_memory and has_memory
