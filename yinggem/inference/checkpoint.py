"""Checkpoint files: what YingGem adds to them, writing them, and reading them without trust.

A checkpoint is what `torch.save` writes of a plain dict: Lightning's entries, the weights under "state_dict" as
"model." + the Transformer's key, and under "yinggem" the architecture and the tokenizer as plain data, and how the
weights are quantized where they are. That alone is enough to generate text. A file may come from anybody: it is
checked before it is believed, and it never runs code. A name that ends in .safetensors gets that format instead; both
are read by what is in them.
"""

import os
import re
import warnings
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from yinggem.common.errors import UserError
from yinggem.common.files import is_utf8, write_atomically
from yinggem.inference.safetensors_file import SUFFIX, is_safetensors, read_safetensors, write_safetensors
from yinggem.inference.verification import refusal, verify
from yinggem.memory.ngram_memory import NgramMemory
from yinggem.model.config import QUANTIZATIONS, ModelConfig
from yinggem.model.kernels.huge_pages import zeros_in_huge_pages
from yinggem.model.quantization import count_weights, makes_finite_weights, quantization_of, quantize
from yinggem.model.transformer import Transformer
from yinggem.text.tokenizer import Tokenizer, from_state_dict

FORMAT = 1
PREFIX = "model."
LEFTOVER = re.compile(r"\..+\.(\d+)-[0-9a-f]{8}\.partial")  # as yinggem.common.files names what it writes


def metadata(config: ModelConfig, tokenizer: Tokenizer, **more: Any) -> dict[str, Any]:
    """The "yinggem" entry of a checkpoint; `more` is plain data beside it, such as context_length."""
    return {"format": FORMAT, "model_config": config.to_dict(), "tokenizer": tokenizer.state_dict(), **more}


def save_model(
    path: str | Path, model: Transformer, tokenizer: Tokenizer, memory: NgramMemory | None = None, **more: Any
) -> None:
    """Write a checkpoint of the weights alone, which `load_model` and generate.py read like any other.

    Args:
        memory: goes with the weights; with it the file holds the training text.
    """
    weights = {PREFIX + name: tensor.detach() for name, tensor in model.state_dict().items()}
    kind = quantization_of(model)
    more |= {"quantization": kind} if kind else {}
    content = {"state_dict": weights, "yinggem": metadata(model.config, tokenizer, **more)}
    write = write_safetensors if Path(path).suffix == SUFFIX else write_checkpoint
    write(path, content | (memory_entry(memory) if memory else {}))


def memory_entry(memory: NgramMemory) -> dict[str, Any]:
    """What a checkpoint's dict holds of a memory."""
    ids = torch.frombuffer(bytearray(memory.compressed_ids), dtype=torch.uint8)
    return {"memory": memory.to_dict() | {"ids": ids}}


def load_memory(path: str | Path, checkpoint: dict[str, Any] | None = None) -> NgramMemory | None:
    """The memory of a checkpoint; None where it has none.

    Args:
        checkpoint: what `read_checkpoint` gave of it, where it was read already.

    Raises:
        UserError: as `read_checkpoint`, and where the memory is damaged or not that of the model's tokenizer.
    """
    checkpoint = read_checkpoint(path) if checkpoint is None else checkpoint
    entry = checkpoint.get("memory")
    if entry is None:
        return None
    ids = entry.get("ids") if isinstance(entry, dict) else None
    if not isinstance(ids, Tensor) or ids.dtype != torch.uint8 or ids.dim() != 1 or ids.device.type != "cpu":
        raise refusal(path, "has a damaged memory")
    try:
        memory = NgramMemory.from_dict(entry, ids.numpy().tobytes())
        config = ModelConfig.from_dict(checkpoint["yinggem"].get("model_config"))
    except UserError as error:
        raise refusal(path, f"cannot be read ({str(error).rstrip('.')})") from None
    if memory.vocab_size != config.vocab_size:
        raise refusal(path, f"has the memory of another tokenizer: {memory.vocab_size} tokens for {config.vocab_size}")
    return memory


def write_checkpoint(path: str | Path, content: dict[str, Any]) -> None:
    """Write a checkpoint's dict, whole or not at all; UserError when the disk is full or read-only."""

    def save(file: BinaryIO) -> None:
        try:
            torch.save(content, file)
        except RuntimeError as error:  # torch hides what the disk said behind a complaint of its own
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise

    write_atomically(path, save)


def load_model(
    path: str | Path,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    quantization: str | None = None,
    checkpoint: dict[str, Any] | None = None,
) -> tuple[Transformer, Tokenizer]:
    """Rebuild the model of a checkpoint, in eval mode and in memory of its own, and its tokenizer.

    Args:
        dtype: of the weights, those that are integers excepted; None as they are in the file.
        quantization: see `yinggem.model.quantization.quantize`; None as in the file.
        checkpoint: as `load_memory`.

    Raises:
        UserError: as `read_checkpoint`, when architecture, weights and tokenizer do not belong together, and as
            `quantize`.
    """
    checkpoint = read_checkpoint(path) if checkpoint is None else checkpoint
    entry = checkpoint["yinggem"]
    try:
        config, tokenizer = ModelConfig.from_dict(entry.get("model_config")), from_state_dict(entry.get("tokenizer"))
    except UserError as error:
        raise refusal(path, f"does not describe a model ({str(error).rstrip('.')})") from None
    if tokenizer.vocab_size != config.vocab_size:
        raise refusal(path, f"has a tokenizer of {tokenizer.vocab_size} ids and a model of {config.vocab_size}")
    kept_as = entry.get("quantization")
    if kept_as not in (None, *QUANTIZATIONS):
        raise refusal(path, f"is quantized as {str(kept_as)[:20]!r}, which this version does not know")
    weights = _model_weights(path, checkpoint["state_dict"], config, kept_as)
    with torch.device("meta"), SkipInitialisation():
        model = Transformer(config)
        if kept_as:
            quantize(model, kept_as)
    _check_fit(path, weights, model, bool(kept_as))
    copies = {name: _copy(tensor, device, dtype, bool(kept_as)) for name, tensor in weights.items()}
    model.load_state_dict(copies, assign=True)
    if quantization:
        quantize(model, quantization)
    return model.eval(), tokenizer


def _copy(tensor: Tensor, device: torch.device | str, dtype: torch.dtype | None, quantized: bool) -> Tensor:
    """A copy to keep; `quantized` ones are not for training, and their scales stay exact."""
    copy = zeros_in_huge_pages(tensor.shape, tensor.dtype if quantized else dtype or tensor.dtype, device)
    copy.copy_(tensor)
    return copy if quantized else nn.Parameter(copy)


def read_checkpoint(path: str | Path, map_location: Any = "cpu") -> dict[str, Any]:
    """The dict in a checkpoint, verified: every byte against its checksum, the structure before the tensors.

    Tensors stay in the file (memory-mapped) until they are used or copied.

    Raises:
        UserError: the file is missing, damaged, not a YingGem checkpoint, or holds more than plain data.
    """
    content = read_safetensors(path) if is_safetensors(path) else _read_archive(path, map_location)
    entry = content.get("yinggem") if isinstance(content, dict) else None
    if not isinstance(entry, dict) or not isinstance(content.get("state_dict"), dict):
        raise refusal(path, "was not written by YingGem")
    if not isinstance(entry.get("format"), int) or entry["format"] != FORMAT:  # a tensor has no single answer
        raise refusal(path, f"has format {str(entry.get('format'))[:20]} where this version reads {FORMAT}")
    checked: dict[str, Any] = content
    return checked


def _read_archive(path: str | Path, map_location: Any) -> Any:
    """What torch.save wrote, of plain data and tensors alone."""
    verify(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if is_utf8(path):
                mapped = os.name != "nt"  # Windows cannot replace a mapped file, and last.ckpt will be replaced
                return torch.load(path, map_location=map_location, weights_only=True, mmap=mapped)
            else:  # torch maps files with names in UTF-8 only
                with open(path, "rb") as file:
                    return torch.load(file, map_location=map_location, weights_only=True)
    except Exception:  # the file is hostile or damaged in a way its checksums allow; torch raises all kinds
        raise refusal(path, "cannot be read as plain data and tensors") from None


def clean_leftovers(folder: str | Path) -> list[Path]:
    """Remove the partial files of writers that were killed, and name them; those of living processes stay."""
    removed = []
    for path in Path(folder).glob(".*.partial"):
        match = LEFTOVER.fullmatch(path.name)
        if match and not _is_alive(int(match[1])):
            path.unlink(missing_ok=True)
            removed.append(path)
    return removed


def _is_alive(pid: int) -> bool:
    if pid == os.getpid():  # this process is not writing one now
        return False
    if os.name == "nt":  # where signal 0 means Ctrl-C
        return True
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        return True
    return True


class SkipInitialisation(TorchFunctionMode):
    """Skips initialisation: weights are replaced anyway, and random numbers on "meta" import a compiler for 1 s."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__module__", None) == "torch.nn.init":
            return (kwargs or {}).get("tensor", *args[:1])
        return func(*args, **(kwargs or {}))


def _model_weights(path: str | Path, state: dict[Any, Any], config: ModelConfig, kind: str | None) -> dict[str, Tensor]:
    """The Transformer's entries of a state dict, plain numbers and as many as the architecture has."""
    state = {name: tensor for name, tensor in state.items() if isinstance(name, str) and name.startswith(PREFIX)}
    weights = {name[len(PREFIX) :]: tensor for name, tensor in state.items()}
    for name, tensor in weights.items():
        plain = isinstance(tensor, Tensor) and tensor.layout == torch.strided and tensor.device.type == "cpu"
        if not plain or not tensor.is_contiguous() or not (kind or tensor.is_floating_point()):
            raise refusal(path, f"holds no plain weights under {name[:80]!r}")
    if not kind and len({tensor.dtype for tensor in weights.values()}) > 1:
        raise refusal(path, "mixes weights of several types")
    count = sum(count_weights(name, tensor, kind) for name, tensor in weights.items())
    held = sum(tensor.nbytes for tensor in weights.values())
    if count != config.parameters or held > os.path.getsize(path):
        raise refusal(path, f"holds {count} weights where its architecture has {config.parameters}")
    return weights


def _check_fit(path: str | Path, weights: dict[str, Tensor], model: Transformer, quantized: bool) -> None:
    """Names and shapes; of quantized weights also the types and values, which their kernels do not check."""
    expected, found = (
        {name: [*tensor.shape, *([tensor.dtype] if quantized else [])] for name, tensor in tensors.items()}
        for tensors in (model.state_dict(), weights)
    )
    for name in sorted(expected.keys() | found.keys()):
        have, want = found.get(name, "nothing"), expected.get(name, "nothing")
        if have != want:
            raise refusal(path, f"does not fit its architecture at {name[:80]!r} ({have} instead of {want})")
    for name, tensor in weights.items():
        if quantized and not makes_finite_weights(name, tensor):
            raise refusal(path, f"holds values under {name[:80]!r} that weights cannot have")
