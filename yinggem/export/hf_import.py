"""A folder of transformers as a model of ours, exactly, or a refusal that names what is in the way.

It may come from anybody: only JSON and safetensors are read, nothing in it is run, and the weights are checked as those
of every checkpoint.
"""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from yinggem.common.errors import UserError
from yinggem.export.folder import CONFIG
from yinggem.export.hf import WEIGHTS
from yinggem.export.hf_config import from_config_json
from yinggem.export.hf_tokenizer import read_tokenizer
from yinggem.export.hf_weights import from_transformers, their_names
from yinggem.inference.checkpoint import SkipInitialisation, load_model, metadata, stored_model
from yinggem.model.config import ModelConfig
from yinggem.model.transformer import Transformer
from yinggem.text.tokenizer import Tokenizer

MAX_JSON = 1 << 28  # bytes
TIED, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"


def read_folder(folder: Path) -> tuple[Transformer, Tokenizer, dict[str, Any]]:
    """The model and its tokenizer, and what a checkpoint says beside them, as the keywords of `save_model`.

    Raises:
        UserError: a file is missing or damaged, or there is something that YingGem has no setting for.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder; name one that transformers loads.")
    content = _read_json(folder / CONFIG)
    config = from_config_json(content, str(folder / CONFIG))
    has_ends = content.get("eos_token_id") is not None
    tokenizer = read_tokenizer(_read_text(folder / "tokenizer.json"), str(folder / "tokenizer.json"), has_ends)
    weights = _weights(folder, config)
    about = content["yinggem"] if isinstance(content.get("yinggem"), dict) else {}
    about = {name: about[name] for name in ("context_length", "data") if name in about}
    stored = stored_model(folder / WEIGHTS, weights, metadata(config, tokenizer))
    model, tokenizer = load_model(folder / WEIGHTS, stored=stored)
    return model, tokenizer, about


def _weights(folder: Path, config: ModelConfig) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    path = folder / WEIGHTS
    if not path.is_file():
        raise UserError(
            f"{folder} has no {WEIGHTS}; pickles such as pytorch_model.bin are never read, and neither are weights in "
            "several files: load and save the model once with transformers, in one file."
        )
    try:
        tensors = load_file(path)
    except Exception:  # damaged or hostile; the library raises all kinds
        raise UserError(f"{path} is damaged; fetch it again.") from None
    with torch.device("meta"), SkipInitialisation():
        wanted = Transformer(config).state_dict()
    names = {other for name in wanted for other in their_names(name)}
    if config.tie_word_embeddings and TIED in tensors and _is_equal(tensors[TIED], tensors.get(EMBEDDING)):
        del tensors[TIED]  # some software writes it twice
    for name in sorted(names ^ tensors.keys()):
        raise UserError(
            f"{path} {'lacks' if name in names else 'also holds'} {name[:80]}; {CONFIG} describes another model."
        )
    if len({tensor.dtype for tensor in tensors.values()}) > 1:  # joining them would change some
        raise UserError(f"{path} mixes weights of several types; convert them to one with transformers.")
    try:
        return from_transformers(tensors, wanted)
    except RuntimeError:  # parts of a matrix of several widths
        raise UserError(f"{path} does not fit {folder / CONFIG}: some parts have other shapes.") from None


def _is_equal(one: Tensor, other: Tensor | None) -> bool:
    return other is not None and one.dtype == other.dtype and torch.equal(one, other)


def _read_json(path: Path) -> Any:
    text = _read_text(path)
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise UserError(f"{path} is not JSON; fetch the folder again.") from None


def _read_text(path: Path) -> str:
    try:
        if not path.is_file():
            raise OSError(0, "there is no such file")
        if path.stat().st_size > MAX_JSON:
            raise OSError(0, "it is too large")
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise UserError(
            f"Cannot read {path} ({getattr(error, 'strerror', None) or 'not UTF-8'}); name a whole folder."
        ) from None
