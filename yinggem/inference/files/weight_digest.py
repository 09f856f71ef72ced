"""What the weights of a checkpoint are, as a digest; remembered of large files, which need not be read again then."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from yinggem.common.cache_folder import default_cache_dir, is_own, usable_folder
from yinggem.common.verified_files import Files, recall, remember, state_of
from yinggem.inference.files.stored_tensors import StoredTensor

FOLDER = "weights"  # of the cache


def digest_of(weights: Mapping[str, StoredTensor]) -> str:
    """SHA-256 of names, types, shapes and numbers."""
    digest = hashlib.sha256()
    for name, tensor in weights.items():
        digest.update(f"{name} {tensor.dtype} {tensor.shape} ".encode())
        digest.update(np.ascontiguousarray(tensor.bits).data)
    return digest.hexdigest()


def file_at(path: str | Path) -> Files | None:
    """A checkpoint's file as it is now; None where there is none."""
    try:
        return Files.of([state_of(Path(path))])
    except (OSError, ValueError):
        return None


def known_digest(path: str | Path, file: Files) -> str | None:
    """The digest of the weights in a large file that was verified, and has not changed since (`verified_files`)."""
    if not file.are_large or not is_own(note := _note(path)):
        return None
    found = recall(note, file)
    return found if isinstance(found, str) else None


def keep_digest(path: str | Path, file: Files, digest: str) -> None:
    """Remember what was found in a file that is verified."""
    if file.are_large:
        usable_folder(_note(path).parent)
        remember(_note(path), file, digest)


def _note(path: str | Path) -> Path:
    name = hashlib.sha256(str(Path(path).absolute()).encode(errors="surrogateescape")).hexdigest()
    return default_cache_dir() / FOLDER / f"{name}.note"
