"""The model in a checkpoint, checked against its own description: what every engine builds on, without torch.

What is refused is refused here, whoever asks: a checkpoint may come from anybody.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from yinggem.common.errors import UserError
from yinggem.common.verified_files import Files
from yinggem.inference.files.safetensors_file import is_safetensors, read_safetensors
from yinggem.inference.files.stored_tensors import StoredTensor
from yinggem.inference.files.verification import read_plain, refusal
from yinggem.inference.files.weight_digest import file_at, known_digest
from yinggem.memory.ngram_memory import NgramMemory
from yinggem.model.config import QUANTIZATIONS, ModelConfig
from yinggem.model.weights import count_weights, makes_finite_weights, quantized_entries, weight_shapes
from yinggem.text.tokenizer import Tokenizer, from_state_dict

FORMAT = 1
PREFIX = "model."
FLOATS = ("float16", "bfloat16", "float32", "float64")


@dataclass(frozen=True)
class StoredModel:
    """A model as its file holds it.

    Attributes:
        quantization: how the weights are kept, one of QUANTIZATIONS; None: as floats, all of one type.
        weights: under the Transformer's names, with the shapes that `config` says. Their memory is the file's.
        content: all that the checkpoint holds.
        file: as it was while it was read; None where the model is from somewhere else, or the file changed meanwhile.
        digest: of the weights, where it is known from before. Then they are compared with their checksums once used.
    """

    path: Path
    config: ModelConfig
    tokenizer: Tokenizer
    quantization: str | None
    weights: Mapping[str, StoredTensor]
    content: Mapping[str, Any]
    file: Files | None = None
    digest: str | None = None

    @property
    def entry(self) -> dict[str, Any]:
        """The checkpoint's "yinggem" entry."""
        found: dict[str, Any] = self.content["yinggem"]
        return found

    @cached_property
    def memory(self) -> NgramMemory | None:
        """What counting knows of the training text; None where the checkpoint holds none.

        Raises:
            UserError: it is damaged, or not of the model's tokenizer.
        """
        entry = self.content.get("memory")
        if entry is None:
            return None
        ids = entry.get("ids") if isinstance(entry, dict) else None
        if not isinstance(ids, StoredTensor) or ids.dtype != "uint8" or len(ids.shape) != 1 or not ids.is_contiguous:
            raise refusal(self.path, "has a damaged memory")
        if (found := entry.get("vocab_size")) != (wanted := self.config.vocab_size):
            raise refusal(self.path, f"has the memory of another tokenizer: {str(found)[:20]} tokens for {wanted}")
        try:
            return NgramMemory.from_dict(entry, ids.bits.tobytes())
        except UserError as error:
            raise refusal(self.path, f"cannot be read ({str(error).rstrip('.')})") from None


def read_model(path: str | Path) -> StoredModel:
    """The model of a checkpoint.

    Raises:
        UserError: the file is missing, damaged, not a YingGem checkpoint, or holds more than plain data; or
            architecture, weights and tokenizer do not belong together.
    """
    file = file_at(path)
    digest = known_digest(path, file) if file else None
    content = read_safetensors(path) if is_safetensors(path) else read_plain(path, digest is not None)
    if file != file_at(path):  # another file has taken its place
        if digest:
            return read_model(path)
        file = None
    return replace(checked_model(path, content), file=file, digest=digest)


def checked_model(path: str | Path, content: Any) -> StoredModel:
    """The model of a checkpoint's dict, which was read from a file; UserError as `read_model`."""
    content = checked_content(path, content)
    entry = content["yinggem"]
    try:
        config, tokenizer = ModelConfig.from_dict(entry.get("model_config")), from_state_dict(entry.get("tokenizer"))
    except UserError as error:
        raise refusal(path, f"does not describe a model ({str(error).rstrip('.')})") from None
    if tokenizer.vocab_size != config.vocab_size:
        raise refusal(path, f"has a tokenizer of {tokenizer.vocab_size} ids and a model of {config.vocab_size}")
    kept_as = entry.get("quantization")
    if kept_as not in (None, *QUANTIZATIONS):
        raise refusal(path, f"is quantized as {str(kept_as)[:20]!r}, which this version does not know")
    weights = checked_weights(path, content["state_dict"], config, kept_as)
    return StoredModel(Path(path), config, tokenizer, kept_as, weights, content)


def checked_content(path: str | Path, content: Any) -> dict[str, Any]:
    """The dict of a checkpoint; UserError where it is something else, or of another version."""
    entry = content.get("yinggem") if isinstance(content, dict) else None
    if not isinstance(entry, dict) or not isinstance(content.get("state_dict"), dict):
        raise refusal(path, "was not written by YingGem")
    if not isinstance(entry.get("format"), int) or entry["format"] != FORMAT:  # a tensor has no single answer
        raise refusal(path, f"has format {str(entry.get('format'))[:20]} where this version reads {FORMAT}")
    checked: dict[str, Any] = content
    return checked


def checked_weights(
    path: str | Path, state: dict[Any, Any], config: ModelConfig, kind: str | None
) -> dict[str, StoredTensor]:
    """The weights in a state dict, quantized as `kind`: names, types, shapes, and the values of quantized ones.

    Raises:
        UserError: they are not those of such a model.
    """
    weights = _plain_weights(path, state, config, kind)
    _check_fit(path, weights, config, kind)
    return weights


def _plain_weights(
    path: str | Path, state: dict[Any, Any], config: ModelConfig, kind: str | None
) -> dict[str, StoredTensor]:
    """The Transformer's entries of a state dict, plain numbers and as many as the architecture has."""
    state = {name: tensor for name, tensor in state.items() if isinstance(name, str) and name.startswith(PREFIX)}
    weights = {name[len(PREFIX) :]: tensor for name, tensor in state.items()}
    for name, tensor in weights.items():
        plain = isinstance(tensor, StoredTensor) and tensor.is_contiguous
        if not plain or not (kind or tensor.dtype in FLOATS):
            raise refusal(path, f"holds no plain weights under {name[:80]!r}")
    if not kind and len({tensor.dtype for tensor in weights.values()}) > 1:
        raise refusal(path, "mixes weights of several types")
    count = sum(count_weights(name, tensor.shape, kind) for name, tensor in weights.items())
    held = sum(tensor.nbytes for tensor in weights.values())
    if count != config.parameters or held > os.path.getsize(path):
        raise refusal(path, f"holds {count} weights where its architecture has {config.parameters}")
    return weights


def _check_fit(path: str | Path, weights: dict[str, StoredTensor], config: ModelConfig, kind: str | None) -> None:
    """Names and shapes; of quantized weights also the types and values, which their kernels do not check."""
    expected: dict[str, Any] = quantized_entries(config, kind) if kind else weight_shapes(config)
    found = {name: (tensor.shape, tensor.dtype) if kind else tensor.shape for name, tensor in weights.items()}
    for name in sorted(expected.keys() | found.keys()):
        have, want = found.get(name, "nothing"), expected.get(name, "nothing")
        if have != want:
            raise refusal(path, f"does not fit its architecture at {name[:80]!r} ({have} instead of {want})")
    for name, tensor in weights.items():
        if kind and not makes_finite_weights(name, tensor.numbers()):
            raise refusal(path, f"holds values under {name[:80]!r} that weights cannot have")


def engine_weights(stored: StoredModel) -> dict[str, np.ndarray]:
    """The weights as `yinggem.engine` takes them: floats as float32; the bfloat16 of quantized ones as uint16."""
    if stored.quantization:
        return engine_arrays(stored.weights)
    return {name: tensor.numbers().astype(np.float32, copy=False) for name, tensor in stored.weights.items()}


def engine_arrays(weights: Mapping[str, StoredTensor]) -> dict[str, np.ndarray]:
    """Quantized weights as `yinggem.engine` takes them."""
    kept = {name: (tensor.bits, tensor.dtype) for name, tensor in weights.items()}
    return {name: bits.view(np.uint16) if dtype == "bfloat16" else bits for name, (bits, dtype) in kept.items()}
