"""init_from: a new run that begins with the weights and the tokenizer of another.

Nothing else comes along: optimizer, schedule, order of the windows and memory are those of a run from random weights.
"""

import fnmatch
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from yinggem.common.errors import UserError
from yinggem.inference.checkpoint import load_model, read_checkpoint
from yinggem.inference.starter import STARTER, starter_path
from yinggem.model.config import ModelConfig
from yinggem.model.quantization import dequantized, quantization_of
from yinggem.model.transformer import Transformer
from yinggem.runs.layout import find_checkpoint
from yinggem.text.tokenizer import BPETokenizer, Tokenizer, from_state_dict

# Of a model: what no weight depends on.
FREE = ("vocab_size", "dropout", "attention_dropout", "initializer_range", "document_end")


@dataclass(frozen=True)
class StartingPoint:
    """What a new run begins with.

    Args:
        name: as it was typed.
        model: in floats; None where the run is continued, whose own checkpoint has the weights.
        config: its shape.
        notes: what the user should know, a line each.
    """

    name: str
    model: Transformer | None
    config: ModelConfig
    tokenizer: Tokenizer
    notes: tuple[str, ...] = ()

    def shape(self) -> dict[str, Any]:
        """The settings model.NAME that its weights decide."""
        return {field.name: getattr(self.config, field.name) for field in fields(ModelConfig) if field.name not in FREE}

    def tokenizer_settings(self) -> dict[str, Any]:
        """The tokenizer as configuration says it; its vocabulary is that of the weights."""
        kind = type(self.tokenizer)
        size = {"vocab_size": self.tokenizer.settings["vocab_size"]} if kind is BPETokenizer else {}
        return {"_target_": f"{kind.__module__}.{kind.__qualname__}", **size}


def begin(model: Transformer, tokenizer: Tokenizer, start: StartingPoint | None, frozen: Any = None) -> None:
    """Give a new model the weights of `start`, and freeze some.

    Args:
        tokenizer: of the text that it will be trained on.
        frozen: as `freeze`.

    Raises:
        UserError: the model has another shape; the text comes with a tokenizer of its own; as `freeze`.
    """
    if start is None:
        if frozen is not None:
            raise UserError("init_freeze keeps weights as init_from=RUN brings them; name that too, or leave it out.")
        return
    if tokenizer.fingerprint != start.tokenizer.fingerprint:
        raise UserError(f"init_from={start.name} brings its tokenizer, and these token shards were made with another.")
    if start.model is not None:
        check_shape(start.name, start.shape(), {name: getattr(model.config, name) for name in start.shape()})
        model.load_state_dict(_with_rows(start.model.state_dict(), model.state_dict()))
    freeze(model, frozen)


def _with_rows(weights: dict[str, Tensor], wanted: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights for a vocabulary with other marks of documents, its last ids: a new one begins as the mean of all."""
    fitted = {}
    for name, tensor in weights.items():
        more = len(wanted[name]) - len(tensor)
        mean = tensor.mean(0, keepdim=True).expand(max(0, more), *tensor.shape[1:])
        fitted[name] = torch.cat((tensor, mean)) if more > 0 else tensor[: len(wanted[name])]
    return fitted


def find_start(wanted: str, continued: Path | None = None) -> StartingPoint:
    """What init_from names: `starter`, a run folder or a checkpoint.

    Args:
        continued: the checkpoint that the run goes on from: it has the weights and the tokenizer already, and what it
            once began with may be gone.

    Raises:
        UserError: there is none; it is damaged; its weights are of 4 bits.
    """
    if continued is not None:
        entry = read_checkpoint(continued)["yinggem"]
        return StartingPoint(
            wanted, None, ModelConfig.from_dict(entry["model_config"]), from_state_dict(entry["tokenizer"])
        )
    if wanted == STARTER:
        path = starter_path()
    else:
        place = Path(wanted).expanduser()
        if not place.exists():
            raise UserError(
                f"init_from={wanted} does not exist; write {STARTER}, or name a run folder or a checkpoint."
            )
        path = find_checkpoint(place)
    model, tokenizer = load_model(path)
    kind = quantization_of(model)
    if kind == "int4":
        raise UserError(
            f"init_from={wanted} holds weights of 4 bits, which are too coarse to train on; "
            "name the checkpoint that they were made from."
        )
    notes = (
        (f"Note       the weights of init_from={wanted} are of 8 bits; they are made float32 again.",) if kind else ()
    )
    return StartingPoint(wanted, dequantized(model) if kind else model.float(), model.config, tokenizer, notes)


def check_shape(name: str, shape: Mapping[str, Any], wanted: Mapping[str, Any], word: str = "that") -> None:
    """Refuse settings of a model that the weights to begin with do not have.

    Args:
        word: what was typed and brings them, to be left out.

    Raises:
        UserError: names them, and both values.
    """
    other = [key for key in shape if key in wanted and wanted[key] != shape[key]]
    if other:
        here, there = (", ".join(f"model.{key}={values[key]}" for key in other[:4]) for values in (wanted, shape))
        raise UserError(
            f"init_from={name} brings weights of another shape: they have {there}, not {here}; leave {word} out."
        )


def check_tokenizer(start: StartingPoint, typed: Sequence[str], wanted: Mapping[str, Any]) -> None:
    """Refuse a tokenizer that is typed beside init_from and is another than the weights were trained with.

    Args:
        typed: the words of the command.
        wanted: the group `tokenizer` of the configuration.

    Raises:
        UserError: it differs in its kind or its size.
    """
    own = start.tokenizer_settings()
    words = [word for word in typed if word.lstrip("+").startswith(("tokenizer=", "tokenizer."))]
    if words and any(wanted.get(name) != value for name, value in own.items()):
        raise UserError(
            f"init_from={start.name} brings its tokenizer ({start.tokenizer.name}, {start.tokenizer.vocab_size} ids), "
            f"and {shlex.join(words)} is another; leave that out, or init_from."
        )


def freeze(model: nn.Module, what: int | str | Sequence[str] | None) -> int:
    """Keep some weights as they are.

    Args:
        what: a number N: the embedding and the first N blocks; or patterns of names such as blocks.0.*; None: nothing.

    Returns:
        how many weights are left to train.

    Raises:
        UserError: a pattern matches nothing, there are not so many blocks, or nothing would be left.
    """
    names = dict(model.named_parameters())
    patterns = patterns_of(what, len(getattr(model, "blocks", [])))
    for pattern in patterns:
        if not fnmatch.filter(names, pattern):
            known = ", ".join(dict.fromkeys(".".join(name.split(".")[:2]) for name in names))
            raise UserError(f"init_freeze={pattern} matches no weight; the names begin with {known}.")
    for name, weights in names.items():
        weights.requires_grad_(not any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns))
    left = sum(weights.numel() for weights in names.values() if weights.requires_grad)
    if not left:
        raise UserError(f"init_freeze={what} leaves nothing to train; freeze less.")
    return left


def patterns_of(what: int | str | Sequence[str] | None, blocks: int) -> list[str]:
    """The patterns that init_freeze means."""
    if what is None:
        return []
    if isinstance(what, bool) or (isinstance(what, int) and not 0 <= what <= blocks):
        raise UserError(f"init_freeze must be from 0 to {blocks} blocks, or patterns of names, not {what}.")
    if isinstance(what, int):
        return ["embedding.*", *(f"blocks.{number}.*" for number in range(what))] if what else []
    patterns = [what] if isinstance(what, str) else list(what)
    if not all(isinstance(pattern, str) for pattern in patterns):
        raise UserError(f"init_freeze must be a number of blocks or patterns of names, not {str(what)[:80]}.")
    return patterns


def with_start(config: dict[str, Any], start: StartingPoint, typed: Sequence[str]) -> dict[str, Any]:
    """The groups `model` and `tokenizer` of a configuration as the weights decide them.

    Args:
        typed: the words of the command, which may not contradict the weights.

    Raises:
        UserError: they do.
    """
    check_tokenizer(start, typed, config["tokenizer"])
    shape, model = start.shape(), config["model"]
    for word in typed:
        if word.lstrip("+").startswith("model="):
            check_shape(start.name, shape, model, word)
    named = {word.lstrip("+").partition("=")[0] for word in typed}
    check_shape(start.name, shape, {name: model[name] for name in shape if f"model.{name}" in named and name in model})
    return {"model": {**model, **shape}, "tokenizer": start.tokenizer_settings()}
