"""A cache folder that several processes share: where it is, and files that are made once and verified when opened."""

import contextlib
import functools
import logging
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from yinggem.common.errors import UserError
from yinggem.common.files import write_atomically

Content = TypeVar("Content")
PRIVATE = re.compile(r"[0-9a-f]{64}\.(?!lock)[a-z]+")  # the names of files that `private_file` makes: a digest, a kind

log = logging.getLogger(__name__)


def default_cache_dir() -> Path:
    """$YINGGEM_CACHE, else yinggem in $XDG_CACHE_HOME or ~/.cache; a temporary folder where that cannot be written."""
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    wanted = Path(os.environ.get("YINGGEM_CACHE") or f"{home}/yinggem").expanduser()
    with contextlib.suppress(UserError):
        return usable_folder(wanted)
    return folder_instead_of(wanted)


@functools.cache  # to be told once is enough
def folder_instead_of(wanted: Path) -> Path:
    """A temporary folder of this user, in place of one that cannot be written; a warning says so."""
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
            log.warning("%s is damaged%s and is made again.", path, "" if is_own(path) else ", or another user's,")
        remove_leftovers(path)
        write_atomically(path, build)
        content = open_verified(path)
    if content is None:
        raise not_what_was_written(path)
    return content


def private_file(
    path: Path, build: Callable[[BinaryIO], Any], open_verified: Callable[[Path], Content | None], most_bytes: int
) -> Content:
    """As `cached_file`, of a file that its user alone can read: another user's is not believed.

    Args:
        path: matches PRIVATE, in a folder of such files.
        most_bytes: of all these files together; those used longest ago are removed, but never this one.
    """

    made = False

    def build_private(file: BinaryIO) -> None:
        nonlocal made
        os.chmod(file.name, 0o600)
        build(file)
        made = True  # by this user, even where a network file system calls all files somebody else's

    content = cached_file(path, build_private, lambda path: open_verified(path) if made or is_own(path) else None)
    with contextlib.suppress(OSError):
        os.utime(path)
    _limit(path, most_bytes)
    return content


def is_own(path: Path) -> bool:
    """Whether no other user has made a file: who has may have made anything."""
    try:
        return not hasattr(os, "geteuid") or path.lstat().st_uid == os.geteuid()
    except OSError:
        return True  # there is none


def _limit(newest: Path, most_bytes: int) -> None:
    """Remove what was used longest ago until all takes no more than most_bytes; `newest` stays."""
    found = []
    for path in newest.parent.glob("*"):
        with contextlib.suppress(OSError):
            if PRIVATE.fullmatch(path.name):
                found.append((path.stat().st_mtime, path.stat().st_size, path))
    total = sum(size for _, size, _ in found)
    for _, size, path in sorted(found):
        if total <= most_bytes:
            break
        if path != newest:
            with contextlib.suppress(OSError):  # Windows removes no file that is mapped
                path.unlink()
                total -= size


def not_what_was_written(path: Path) -> UserError:
    """The error when a file cannot be read back."""
    return UserError(f"{path} does not hold what was just written to it; check the disk, or choose another folder.")


def _lock_of(path: Path) -> Path:
    """One lock for all files whose names are the same up to the first dot."""
    return path.with_name(f"{path.name.split('.')[0]}.lock")


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Be the only process that makes this file and those it belongs to."""
    from filelock import FileLock, Timeout  # its import takes longer than to open a file that is there

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
    from filelock import FileLock

    for partial in path.parent.glob(".*.partial"):
        lock = _lock_of(path.with_name(partial.name[1:]))
        if lock == _lock_of(path):
            partial.unlink(missing_ok=True)
        else:
            with contextlib.suppress(OSError), FileLock(lock, timeout=0):  # Timeout is one
                partial.unlink(missing_ok=True)
