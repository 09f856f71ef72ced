"""What is made once of a text, in the user's cache: checked when it is opened, limited in size."""

import hashlib
import json
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import numpy as np

from yinggem.common.cache_folder import default_cache_dir, private_file, usable_folder
from yinggem.memory.index import DISCOUNT_LIMITS, NgramIndex, build_index, longest_ngram
from yinggem.memory.marks import Marks

MOST_BYTES = 4 << 30  # of all texts together; what was used longest ago goes first
VERSION = "3"
MAGIC = b"yinggem-places-3\n"
ALIGNED = 64  # bytes; where an array begins in a file
Content = TypeVar("Content")


def cached_index(ids: np.ndarray, vocab_size: int, cache_dir: Path | None = None) -> NgramIndex:
    """The index of ids (N,), made once for every text and then mapped.

    An index is believed only where its checksum is right, and lies where its user alone can write.
    """
    return _cached(
        f"{fingerprint(ids, vocab_size)}.ngrams",
        lambda file: write_index(file, build_index(ids, vocab_size)),
        lambda path: open_index(path, ids, vocab_size),
        cache_dir,
    )


def cached_bytes(ids: np.ndarray, vocab_size: int, make: Callable[[], bytes], cache_dir: Path | None = None) -> bytes:
    """What `make` gives for ids (N,), made once for every text."""
    return _cached_bytes(f"{fingerprint(ids, vocab_size)}.packed", make, cache_dir)


def cached_ids(packed: bytes, about: str, make: Callable[[], bytes], cache_dir: Path | None = None) -> bytes:
    """What `make` gives for ids that are packed, and what is known `about` them: to unpack takes a while."""
    digest = hashlib.sha256(f"{VERSION} {about} ".encode())
    digest.update(packed)
    return _cached_bytes(f"{digest.hexdigest()}.ids", make, cache_dir)


def _cached_bytes(name: str, make: Callable[[], bytes], cache_dir: Path | None) -> bytes:
    def write(file: BinaryIO) -> None:
        content = make()
        file.write(zlib.crc32(content).to_bytes(4, "little") + content)

    def read(path: Path) -> bytes | None:
        if not path.is_file():
            return None
        with open(path, "rb") as file:
            checksum, content = file.read(4), file.read()
        return content if int.from_bytes(checksum, "little") == zlib.crc32(content) else None

    return _cached(name, write, read, cache_dir)


def _cached(
    name: str, write: Callable[[BinaryIO], Any], read: Callable[[Path], Content | None], cache_dir: Path | None
) -> Content:
    """A file of the folder of memories, which only its user can read."""
    folder = usable_folder((cache_dir or default_cache_dir()) / "memory")
    return private_file(folder / name, write, read, MOST_BYTES)


def fingerprint(ids: np.ndarray, vocab_size: int) -> str:
    """SHA-256 of what is counted, and of how."""
    digest = hashlib.sha256(f"{VERSION} {vocab_size} {ids.dtype.itemsize} ".encode())
    digest.update(np.ascontiguousarray(ids).data)
    return digest.hexdigest()


def write_index(file: BinaryIO, index: NgramIndex) -> None:
    """Write an index so that `open_index` can map it into memory; its text is left out."""
    arrays = [index.suffixes, index.firsts, index.alone, index.discounts, *(marks.words for marks in index.marks)]
    checksum = 0
    for array in arrays:
        checksum = zlib.crc32(np.ascontiguousarray(array).data.cast("B"), checksum)
    header = json.dumps({"shapes": [[array.dtype.str, *array.shape] for array in arrays], "checksum": checksum})
    file.write(MAGIC)
    file.write(header.encode() + b" " * (-(len(MAGIC) + len(header) + 1) % ALIGNED) + b"\n")
    for array in arrays:
        file.write(array.tobytes() + bytes(-array.nbytes % ALIGNED))


def open_index(path: Path, ids: np.ndarray, vocab_size: int) -> NgramIndex | None:
    """Map the index of ids (N,) that `write_index` wrote; None for anything else, and where a byte is another."""
    try:
        content = np.memmap(path, np.uint8, "r").view(np.ndarray)
        with open(path, "rb") as file:
            if file.readline() != MAGIC:
                return None
            header = json.loads(file.readline(1 << 16))
            place = file.tell()
        found, checksum = [], 0
        for kind, *shape in header["shapes"]:
            if kind not in ("<u8", "<u4", "<f8"):
                return None
            size = np.dtype(kind).itemsize * int(np.prod(shape))
            found.append(content[place : place + size].view(kind).reshape(shape))
            checksum = zlib.crc32(content[place : place + size].data, checksum)
            place += size + -size % ALIGNED
        suffixes, firsts, alone, discounts, *words = found
        longest = longest_ngram(vocab_size)
        shapes = suffixes.shape, firsts.shape, alone.shape, discounts.shape, len(words)
        if checksum != header["checksum"] or shapes != (
            ids.shape, (vocab_size + 1,), (vocab_size,), (longest, 4), longest - 1,
        ):  # fmt: skip
            return None
        if firsts[0] or firsts[-1] != len(ids) or (firsts[1:] < firsts[:-1]).any():
            return None
        if suffixes.max() >= len(ids) or not (abs(discounts) <= DISCOUNT_LIMITS).all():
            return None
        marks = tuple(Marks(each) for each in words)
        kept = all(each.size >= len(ids) for each in marks)
        return NgramIndex(ids, suffixes, firsts, alone, discounts, marks) if kept else None
    except (OSError, ValueError, TypeError, KeyError, IndexError):
        return None
