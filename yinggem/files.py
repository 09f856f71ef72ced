"""Writing a file whole or not at all."""

import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from yinggem.errors import UserError


def write_atomically(path: str | Path, content: bytes | Callable[[BinaryIO], Any]) -> None:
    """Write a file so that `path` holds the old content or the new, whenever the power fails.

    Args:
        content: the bytes, or a function that writes them to the open file it is given.

    Raises:
        UserError: the system refuses; what `path` held before is intact.
    """
    path = Path(path)
    partial = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.partial")
    try:
        with open(partial, "xb") as file:
            if callable(content):
                content(file)
            else:
                file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
        _sync_folder(path.parent)
    except OSError as error:
        raise UserError(f"Cannot write {path} ({error.strerror or error}); choose a folder with room for it.") from None
    finally:
        partial.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    if os.name == "nt":  # there a folder cannot be opened
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
