"""What is made once of a text, in the user's cache: checked when it is opened, limited in size."""

import contextlib
import hashlib
import os
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import numpy as np

from yinggem.common.cache_folder import cached_file, default_cache_dir, usable_folder
from yinggem.memory.index import NgramIndex, build_index, open_index, write_index

MOST_BYTES = 4 << 30  # of all texts together; what was used longest ago goes first
VERSION = "1"
Content = TypeVar("Content")


def cached_index(ids: np.ndarray, vocab_size: int, cache_dir: Path | None = None) -> NgramIndex:
    """The index of ids (N,), made once for every text and then mapped.

    An index is believed only where its checksum is right, and lies where its user alone can write.
    """
    return _cached(
        f"{fingerprint(ids, vocab_size)}.ngrams",
        lambda file: write_index(file, build_index(ids, vocab_size)),
        open_index,
        cache_dir,
    )


def cached_bytes(ids: np.ndarray, vocab_size: int, make: Callable[[], bytes], cache_dir: Path | None = None) -> bytes:
    """What `make` gives for ids (N,), made once for every text."""

    def write(file: BinaryIO) -> None:
        content = make()
        file.write(zlib.crc32(content).to_bytes(4, "little") + content)

    def read(path: Path) -> bytes | None:
        if not path.is_file():
            return None
        content = path.read_bytes()
        return content[4:] if int.from_bytes(content[:4], "little") == zlib.crc32(content[4:]) else None

    return _cached(f"{fingerprint(ids, vocab_size)}.packed", write, read, cache_dir)


def _cached(
    name: str, write: Callable[[BinaryIO], Any], read: Callable[[Path], Content | None], cache_dir: Path | None
) -> Content:
    """A file of the folder of memories, which only its user can read."""
    folder = usable_folder((cache_dir or default_cache_dir()) / "memory")
    path = folder / name

    def build(file: BinaryIO) -> None:
        os.chmod(file.name, 0o600)
        write(file)

    content = cached_file(path, build, read)
    with contextlib.suppress(OSError):
        os.utime(path)
    _limit(folder, path)
    return content


def fingerprint(ids: np.ndarray, vocab_size: int) -> str:
    """SHA-256 of what is counted, and of how."""
    digest = hashlib.sha256(f"{VERSION} {vocab_size} {ids.dtype.itemsize} ".encode())
    digest.update(np.ascontiguousarray(ids).data)
    return digest.hexdigest()


def _limit(folder: Path, newest: Path) -> None:
    """Remove what was used longest ago until all takes less than MOST_BYTES; `newest` stays."""
    found = []
    for path in [*folder.glob("*.ngrams"), *folder.glob("*.packed")]:
        with contextlib.suppress(OSError):
            found.append((path.stat().st_mtime, path.stat().st_size, path))
    total = sum(size for _, size, _ in found)
    for _, size, path in sorted(found):
        if total <= MOST_BYTES or path == newest:
            break
        with contextlib.suppress(OSError):  # Windows removes no file that is mapped
            path.unlink()
            total -= size
