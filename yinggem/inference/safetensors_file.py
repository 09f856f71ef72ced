"""A checkpoint as a safetensors file: a header of JSON, then numbers, so that reading it cannot run code.

The header's metadata has the checkpoint's "yinggem" entry as JSON, and that of its memory. safetensors itself has no
checksum; ours is of everything that the file means, so that a flipped bit is not taken for another model.
"""

import json
import os
import zlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from yinggem.common.files import is_utf8, write_atomically
from yinggem.inference.verification import refusal

SUFFIX = ".safetensors"
IDS = "memory.ids"  # the name of a memory's compressed tokens among the tensors
MAX_HEADER = 1 << 28  # bytes


def is_safetensors(path: str | Path) -> bool:
    """Whether a file begins as safetensors files do: the length of the header, then the header's JSON."""
    try:
        with open(path if os.path.isfile(path) else os.devnull, "rb") as file:
            start, size = file.read(9), os.fstat(file.fileno()).st_size
    except (OSError, ValueError):
        return False
    return start[8:] == b"{" and int.from_bytes(start[:8], "little") <= size - 8


def write_safetensors(path: str | Path, content: dict[str, Any]) -> None:
    """Write a checkpoint's dict, whole or not at all: its "state_dict", "yinggem" and "memory".

    Raises:
        UserError: the system refuses.
    """
    from safetensors.torch import save

    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in content["state_dict"].items()}
    texts = {"yinggem": json.dumps(content["yinggem"])}
    if "memory" in content:
        tensors[IDS] = content["memory"]["ids"]
        texts["memory"] = json.dumps({name: value for name, value in content["memory"].items() if name != "ids"})
    # "format" tells other software that the tensors were torch's.
    write_atomically(path, save(tensors, {"format": "pt", "checksum": _checksum(tensors, texts), **texts}))


def read_safetensors(path: str | Path) -> dict[str, Any]:
    """The inverse of `write_safetensors`. Tensors may stay in the file (memory-mapped) until they are copied.

    Raises:
        UserError: the file is damaged or was not written by YingGem.
    """
    from safetensors.torch import load, load_file

    try:
        tensors = load_file(path) if is_utf8(path) else load(Path(path).read_bytes())
        metadata = _metadata(path)
    except Exception:  # the file is damaged or hostile; the library raises all kinds
        raise refusal(path, "is damaged or cut short") from None
    texts: dict[str, str] = {name: metadata[name] for name in ("yinggem", "memory") if name in metadata}
    if "yinggem" not in texts or "checksum" not in metadata:
        raise refusal(path, "was not written by YingGem")
    try:
        if metadata["checksum"] != _checksum(tensors, texts):
            raise ValueError("checksum")
        entries: dict[str, Any] = {name: json.loads(text) for name, text in texts.items()}
    except (ValueError, RuntimeError, RecursionError):
        raise refusal(path, "is damaged") from None
    ids = tensors.pop(IDS, None)
    if isinstance(entries.get("memory"), dict):
        entries["memory"]["ids"] = ids
    return {"state_dict": tensors, **entries}


def _metadata(path: str | Path) -> dict[str, str]:
    """The texts in the header."""
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(min(length, MAX_HEADER)))
    return {name: text for name, text in header.get("__metadata__", {}).items() if isinstance(text, str)}


def _checksum(tensors: dict[str, Tensor], texts: dict[str, str]) -> str:
    """CRC-32 of names, types, shapes and numbers, and of the texts: as in the other files, against damage alone."""
    found = zlib.crc32(json.dumps(texts, sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        found = zlib.crc32(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode(), found)
        found = zlib.crc32(tensor.reshape(-1).view(torch.uint8).numpy().data, found)
    return f"{found:08x}"
