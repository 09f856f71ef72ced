"""A folder that is written whole or not at all, and that replaces nothing but an earlier export."""

import json
import os
import secrets
import shutil
from collections.abc import Callable
from pathlib import Path

from yinggem.common.errors import UserError
from yinggem.common.files import cannot_write, leftovers

CONFIG = "config.json"
NAMES = {CONFIG, "generation_config.json", "model.safetensors", "modeling_yinggem.py", "onnx", "README.md",
         "tokenizer.json", "tokenizer_config.json"}  # fmt: skip


def write_folder(folder: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill an empty folder beside `folder`, and put it in its place once it is complete.

    Raises:
        UserError: as `check_replaceable`; the system refuses.
    """
    folder = Path(os.path.abspath(folder))
    check_replaceable(folder)
    mark = f"{os.getpid()}-{secrets.token_hex(4)}"
    partial, earlier = (folder.with_name(f".{folder.name}.{mark}.{kind}") for kind in ("partial", "earlier"))
    try:
        partial.mkdir()
        write(partial)
        for path in partial.rglob("*"):
            if path.is_file():
                with open(path, "rb+") as file:
                    os.fsync(file.fileno())
        _exchange(partial, folder, earlier)
    except OSError as error:
        raise cannot_write(folder, error) from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def clean_leftovers(output: Path) -> None:
    """Remove what exports to this file or folder left beside it when they were killed."""
    for path, name, _ in leftovers(Path(os.path.abspath(output)).parent):
        if name == output.name and path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        elif name == output.name:
            path.unlink(missing_ok=True)


def _exchange(new: Path, folder: Path, earlier: Path) -> None:
    """Put `new` in the place of `folder`, which is kept until it is done."""
    if folder.exists():
        os.rename(folder, earlier)
    try:
        os.rename(new, folder)
    except OSError:
        if earlier.exists():
            os.rename(earlier, folder)
        raise
    shutil.rmtree(earlier, ignore_errors=True)


def check_replaceable(folder: Path) -> None:
    """UserError where there is something that is not an earlier export, or more than that."""
    if not os.path.lexists(folder):
        return
    if not folder.is_dir():
        raise UserError(f"{folder} is a file; name a folder to write into.")
    names = set(os.listdir(folder))
    if names and not _is_export(folder):
        raise UserError(f"{folder} is not empty and was not written by `yinggem export`; name another folder.")
    if more := sorted(names - NAMES):
        raise UserError(f"{folder} also holds {more[0]}, which `yinggem export` did not write; name another folder.")


def _is_export(folder: Path) -> bool:
    try:
        content = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(content, dict) and "yinggem" in content
