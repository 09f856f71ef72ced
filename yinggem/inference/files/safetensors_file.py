"""A checkpoint as a safetensors file: a header of JSON, then numbers, so that reading it cannot run code.

The header's metadata has the checkpoint's "yinggem" entry as JSON, and that of its memory. safetensors itself has no
checksum; ours is of everything that the file means, so that a flipped bit is not taken for another model.
"""

import json
import math
import os
import zlib
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from yinggem.common.files import write_atomically
from yinggem.inference.files.stored_tensors import Storage, StoredTensor
from yinggem.inference.files.unpickling import NotPlainError
from yinggem.inference.files.verification import map_file, numbers_in, refusal

SUFFIX = ".safetensors"
IDS = "memory.ids"  # the name of a memory's compressed tokens among the tensors
MAX_HEADER = 1 << 28  # bytes
ALIGNED = 64  # bytes; where the numbers begin in a file that is mapped to be computed with
# The format's names of types: torch's, and how numpy reads them. It has no bfloat16: its bits are integers.
TYPES = {
    "F64": ("float64", "<f8"), "F32": ("float32", "<f4"), "F16": ("float16", "<f2"), "BF16": ("bfloat16", "<i2"),
    "I64": ("int64", "<i8"), "I32": ("int32", "<i4"), "I16": ("int16", "<i2"), "I8": ("int8", "<i1"),
    "U8": ("uint8", "<u1"), "BOOL": ("bool", "?"),
}  # fmt: skip


def is_safetensors(path: str | Path) -> bool:
    """Whether a file begins as safetensors files do: the length of the header, then the header's JSON."""
    try:
        with open(path if os.path.isfile(path) else os.devnull, "rb") as file:
            start, size = file.read(9), os.fstat(file.fileno()).st_size
    except (OSError, ValueError):
        return False
    return start[8:] == b"{" and int.from_bytes(start[:8], "little") <= size - 8


def write_safetensors(path: str | Path, content: dict[str, Any]) -> None:
    """Write a checkpoint's dict, whole or not at all: its "state_dict", "yinggem" and "memory", with torch's tensors.

    Raises:
        UserError: the system refuses.
    """
    import torch
    from safetensors.torch import save

    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in content["state_dict"].items()}
    texts = {"yinggem": json.dumps(content["yinggem"])}
    if "memory" in content:
        tensors[IDS] = content["memory"]["ids"]
        texts["memory"] = json.dumps({name: value for name, value in content["memory"].items() if name != "ids"})
    numbers = {
        name: (f"{tensor.dtype} {tuple(tensor.shape)}", tensor.reshape(-1).view(torch.uint8).numpy())
        for name, tensor in tensors.items()
    }
    # "format" tells other software that the tensors were torch's.
    write_atomically(path, save(tensors, {"format": "pt", "checksum": _checksum(numbers, texts), **texts}))


def write_arrays(file: BinaryIO, arrays: dict[str, tuple[str, np.ndarray]], texts: dict[str, str]) -> None:
    """Write arrays, each with torch's name of its type, in this order and without a gap, and texts: without torch."""
    numbers = {name: (f"torch.{dtype} {array.shape}", _bytes_of(array)) for name, (dtype, array) in arrays.items()}
    header: dict[str, Any] = {"__metadata__": {"checksum": _checksum(numbers, texts), **texts}}
    types, place = {name: short for short, (name, _) in TYPES.items()}, 0
    for name, (dtype, array) in arrays.items():
        offsets = [place, place := place + array.nbytes]
        header[name] = {"dtype": types[dtype], "shape": [*array.shape], "data_offsets": offsets}
    text = json.dumps(header).encode()
    text += b" " * (-(8 + len(text)) % ALIGNED)
    file.write(len(text).to_bytes(8, "little") + text)
    for _, values in numbers.values():
        file.write(values.data)


def _bytes_of(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)


def read_safetensors(path: str | Path) -> dict[str, Any]:
    """The inverse of `write_safetensors`, with a `StoredTensor` in the place of each tensor, and without torch.

    They stay in the file (memory-mapped) until they are copied.

    Raises:
        UserError: the file is damaged or was not written by YingGem.
    """
    try:
        metadata, tensors = _parts(path)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError, NotPlainError):
        raise refusal(path, "is damaged or cut short") from None
    texts: dict[str, str] = {name: metadata[name] for name in ("yinggem", "memory") if name in metadata}
    if "yinggem" not in texts or "checksum" not in metadata:
        raise refusal(path, "was not written by YingGem")
    numbers = {
        name: (f"torch.{tensor.dtype} {tensor.shape}", tensor.storage.unread.view(np.uint8))
        for name, tensor in tensors.items()
    }
    try:
        if metadata["checksum"] != _checksum(numbers, texts):
            raise ValueError("checksum")
        entries: dict[str, Any] = {name: json.loads(text) for name, text in texts.items()}
    except (ValueError, RecursionError):
        raise refusal(path, "is damaged") from None
    ids = tensors.pop(IDS, None)
    if isinstance(entries.get("memory"), dict):
        entries["memory"]["ids"] = ids
    return {"state_dict": tensors, **entries}


def _parts(path: str | Path) -> tuple[dict[str, str], dict[str, StoredTensor]]:
    """The texts in the header, and the tensors."""
    with open(path, "rb") as file:
        content = map_file(file)
    length = int.from_bytes(content[:8].tobytes(), "little")
    header = json.loads(content[8 : 8 + min(length, MAX_HEADER)].tobytes())
    texts = {name: text for name, text in header.pop("__metadata__", {}).items() if isinstance(text, str)}
    return texts, {name: _tensor(about, content, 8 + length) for name, about in header.items()}


def _tensor(about: dict[str, Any], content: np.ndarray, beginning: int) -> StoredTensor:
    """The tensor that an entry of the header describes; its numbers count from `beginning`."""
    (name, code), shape, (start, end) = TYPES[about["dtype"]], about["shape"], about["data_offsets"]
    if not all(type(number) is int and number >= 0 for number in (start, end, *shape)):
        raise NotPlainError("a tensor is not described as one")
    dtype, count = np.dtype(code), math.prod(shape)
    if end - start != count * dtype.itemsize:
        raise NotPlainError("a tensor has more or fewer numbers than its shape")
    strides = [math.prod(shape[place + 1 :]) for place in range(len(shape))]
    return StoredTensor(
        Storage(name, numbers_in(content, beginning + start, count, dtype)), 0, tuple(shape), tuple(strides)
    )


def _checksum(numbers: dict[str, tuple[str, np.ndarray]], texts: dict[str, str]) -> str:
    """CRC-32 of names, types and shapes, numbers, and of the texts: as in the other files, against damage alone."""
    found = zlib.crc32(json.dumps(texts, sort_keys=True).encode())
    for name, (about, values) in sorted(numbers.items()):
        found = zlib.crc32(f"{name} {about}".encode(), found)
        found = zlib.crc32(values.data, found)
    return f"{found:08x}"
