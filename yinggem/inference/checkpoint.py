"""Checkpoint files with torch: what YingGem adds to them, writing them, and the models that they hold.

A checkpoint is what `torch.save` writes of a plain dict: Lightning's entries, the weights under "state_dict" as
"model." + the Transformer's key, and under "yinggem" the architecture and the tokenizer as plain data, and how the
weights are quantized where they are. That alone is enough to generate text. A file may come from anybody: it is
checked before it is believed, and it never runs code. A name that ends in .safetensors gets that format instead; both
are read by what is in them.
"""

import os
import warnings
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from yinggem.common.files import is_utf8, leftovers, write_atomically
from yinggem.inference.files.safetensors_file import SUFFIX, is_safetensors, read_safetensors, write_safetensors
from yinggem.inference.files.stored_model import FORMAT, PREFIX, StoredModel, checked_content, checked_model, read_model
from yinggem.inference.files.stored_tensors import Storage, StoredTensor
from yinggem.inference.files.verification import refusal, verify
from yinggem.memory.ngram_memory import NgramMemory
from yinggem.model.config import ModelConfig
from yinggem.model.kernels.huge_pages import zeros_in_huge_pages
from yinggem.model.quantization import quantization_of, quantize
from yinggem.model.transformer import Transformer
from yinggem.text.tokenizer import Tokenizer


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
    stored: StoredModel | None = None,
) -> tuple[Transformer, Tokenizer]:
    """Rebuild the model of a checkpoint, in eval mode and in memory of its own, and its tokenizer.

    Args:
        dtype: of the weights, those that are integers excepted; None as they are in the file.
        quantization: see `yinggem.model.quantization.quantize`; None as in the file.
        stored: what `read_model` gave of the checkpoint, where it was read already.

    Raises:
        UserError: as `read_model` and `quantize`.
    """
    stored = stored or read_model(path)
    kept_as = stored.quantization
    with torch.device("meta"), SkipInitialisation():
        model = Transformer(stored.config)
        if kept_as:
            quantize(model, kept_as)
    weights = {name: _tensor_of(tensor) for name, tensor in stored.weights.items()}
    copies = {name: _copy(tensor, device, dtype, bool(kept_as)) for name, tensor in weights.items()}
    model.load_state_dict(copies, assign=True)
    if quantization:
        quantize(model, quantization)
    return model.eval(), stored.tokenizer


def stored_model(path: str | Path, weights: dict[str, Tensor], entry: dict[str, Any]) -> StoredModel:
    """The model that these weights make, checked as those of a checkpoint are.

    Args:
        path: the file they came from.
        entry: what `metadata` gives.

    Raises:
        UserError: as `read_model`.
    """
    state = {PREFIX + name: _stored(tensor.detach().contiguous()) for name, tensor in weights.items()}
    return checked_model(path, {"state_dict": state, "yinggem": entry})


def _stored(tensor: Tensor) -> StoredTensor:
    """The inverse of `_tensor_of`."""
    bits = tensor.view(torch.int16) if tensor.dtype == torch.bfloat16 else tensor
    storage = Storage(str(tensor.dtype).removeprefix("torch."), bits.numpy().reshape(-1))
    return StoredTensor(storage, 0, tuple(tensor.shape), tensor.stride())


def _tensor_of(stored: StoredTensor) -> Tensor:
    """The same numbers in the same memory."""
    bits = torch.from_numpy(stored.bits)
    return bits.view(torch.bfloat16) if stored.dtype == "bfloat16" else bits


def _copy(tensor: Tensor, device: torch.device | str, dtype: torch.dtype | None, quantized: bool) -> Tensor:
    """A copy to keep; `quantized` ones are not for training, and their scales stay exact."""
    copy = zeros_in_huge_pages(tensor.shape, tensor.dtype if quantized else dtype or tensor.dtype, device)
    copy.copy_(tensor)
    return copy if quantized else nn.Parameter(copy)


def read_checkpoint(path: str | Path, map_location: Any = "cpu") -> dict[str, Any]:
    """All that a checkpoint holds, for training: verified, every byte against its checksum, as `read_model` does.

    Tensors stay in the file (memory-mapped) until they are used or copied.

    Raises:
        UserError: the file is missing, damaged, not a YingGem checkpoint, or holds more than plain data.
    """
    if is_safetensors(path):
        content = checked_content(path, read_safetensors(path))
        return {name: _with_tensors(value) for name, value in content.items()}
    return checked_content(path, _read_archive(path, map_location))


def _with_tensors(content: Any) -> Any:
    """The same content with a tensor in the place of each that is stored."""
    if isinstance(content, dict):
        return {name: _with_tensors(value) for name, value in content.items()}
    return _tensor_of(content) if isinstance(content, StoredTensor) else content


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
    removed = [path for path, _, kind in leftovers(Path(folder)) if kind == "partial"]
    for path in removed:
        path.unlink(missing_ok=True)
    return removed


class SkipInitialisation(TorchFunctionMode):
    """Skips initialisation: weights are replaced anyway, and random numbers on "meta" import a compiler for 1 s."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__module__", None) == "torch.nn.init":
            return (kwargs or {}).get("tensor", *args[:1])
        return func(*args, **(kwargs or {}))
