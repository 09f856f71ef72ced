"""Files written whole or not at all, and a cache folder that several processes share."""

import contextlib
import glob
import logging
import os
import re
import secrets
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from filelock import FileLock, Timeout

from yinggem.common.errors import UserError

Content = TypeVar("Content")

URL = re.compile(r"[a-z0-9]+://|local:")  # of object storage, as litdata reads it

log = logging.getLogger(__name__)


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
        raise cannot_write(path, error) from None
    finally:
        with contextlib.suppress(OSError):  # a name below something that is no folder
            partial.unlink(missing_ok=True)


def matches(folder: str | Path, pattern: str) -> list[Path]:
    """The paths below a folder, sorted, hidden ones left out. What another process removes meanwhile does no harm."""
    return sorted(Path(folder, name) for name in glob.glob(pattern, root_dir=folder))


def append(path: str | Path, text: str) -> None:
    """Add text to the end of a file; UserError when the system refuses, and some of it may be written all the same."""
    try:
        with open(path, "a", encoding="utf-8", newline="", errors="surrogateescape") as file:
            file.write(text)
    except OSError as error:
        raise cannot_write(path, error) from None


def cannot_write(path: str | Path, error: OSError) -> UserError:
    """What to say when the system refuses."""
    return UserError(f"Cannot write {path} ({error.strerror or error}); choose a folder with room for it.")


def _sync_folder(folder: Path) -> None:
    if os.name == "nt":  # there a folder cannot be opened
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def cores() -> int:
    """How many processor cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def default_cache_dir() -> Path:
    """$YINGGEM_CACHE, else yinggem in $XDG_CACHE_HOME or ~/.cache; a temporary folder where that cannot be written."""
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    wanted = Path(os.environ.get("YINGGEM_CACHE") or f"{home}/yinggem").expanduser()
    with contextlib.suppress(UserError):
        return usable_folder(wanted)
    user = os.getuid() if hasattr(os, "getuid") else os.environ.get("USERNAME", "")
    temporary = Path(tempfile.gettempdir()) / f"yinggem-{user}"
    log.warning("The cache folder %s cannot be written; using %s instead.", wanted, temporary)
    return usable_folder(temporary)


def usable_folder(folder: Path) -> Path:
    """`folder`, created if need be; UserError when no file can be made in it."""
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError as error:
        raise UserError(f"Cannot write to the folder {folder} ({error.strerror or error}); choose another.") from None


def cached_file(
    path: Path, build: Callable[[BinaryIO], Any], open_verified: Callable[[Path], Content | None]
) -> Content:
    """What `open_verified(path)` returns, after `build` wrote the file if it was missing or damaged.

    One process builds, the others that want the same file wait for it. `open_verified` returns None for a file that
    must not be used.
    """
    content = open_verified(path)
    if content is not None:
        return content
    with locked(path):
        content = open_verified(path)  # another process may have built it meanwhile
        if content is not None:
            return content
        if path.exists():
            log.warning("%s is damaged and is made again.", path)
        remove_leftovers(path)
        write_atomically(path, build)
        content = open_verified(path)
    if content is None:
        raise not_what_was_written(path)
    return content


def not_what_was_written(path: Path) -> UserError:
    """The error when a file cannot be read back."""
    return UserError(f"{path} does not hold what was just written to it; check the disk, or choose another folder.")


def _lock_of(path: Path) -> Path:
    """One lock for all files whose names are the same up to the first dot."""
    return path.with_name(f"{path.name.split('.')[0]}.lock")


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Be the only process that makes this file and those it belongs to."""
    lock = FileLock(_lock_of(path))
    try:
        try:
            lock.acquire(timeout=0)
        except Timeout:
            log.info("Waiting for another process that is making %s.", path)
            lock.acquire()
    except OSError as error:
        raise UserError(f"Cannot lock {lock.lock_file} ({error.strerror or error}); choose another folder.") from None
    try:
        yield
    finally:
        lock.release()


def remove_leftovers(path: Path) -> None:
    """Remove partial files of killed processes from the folder of `path`, whose lock we hold.

    A living writer holds the lock of its file. Process ids would not do: the folder may be shared by machines.
    """
    for partial in path.parent.glob(".*.partial"):
        lock = _lock_of(path.with_name(partial.name[1:]))
        if lock == _lock_of(path):
            partial.unlink(missing_ok=True)
        else:
            with contextlib.suppress(OSError), FileLock(lock, timeout=0):  # Timeout is one
                partial.unlink(missing_ok=True)
