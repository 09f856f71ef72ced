"""Writing files whole or not at all; finding paths, and telling them from URLs."""

import contextlib
import errno
import glob
import os
import re
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from yinggem.common.errors import UserError

HEAD = 1 << 16  # bytes in which a file says what it is
LEFTOVER = re.compile(r"\.(.+)\.(\d+)-[0-9a-f]{8}\.(partial|earlier)")  # name, process, kind


def write_atomically(path: str | Path, content: bytes | Callable[[BinaryIO], Any], mode: int = 0o666) -> None:
    """Write a file so that `path` holds the old content or the new, even if the power fails.

    Args:
        content: the bytes, or a function that writes them to the open file it is given.
        mode: who may read and write it, as far as the umask allows.

    Raises:
        UserError: the system refuses; what `path` held before is intact.
    """
    path = Path(path)
    partial = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.partial")
    try:
        with open(partial, "xb", opener=lambda name, flags: os.open(name, flags, mode)) as file:
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
        with contextlib.suppress(OSError):  # a parent of the path is not a folder
            partial.unlink(missing_ok=True)


def check_file_replaceable(path: str | Path, mark: bytes, command: str) -> None:
    """UserError where there is a file that `command` did not write, since its beginning does not hold `mark`."""
    if not Path(path).is_file():
        return
    try:
        with open(path, "rb") as file:
            begin = file.read(HEAD)
    except OSError as error:
        raise cannot_write(path, error) from None
    if begin and mark not in begin:
        raise UserError(f"{path} exists already, and `{command}` did not write it; name another file.")


def leftovers(folder: Path) -> Iterator[tuple[Path, str, str]]:
    """What writers that were killed have left in a folder: the path, for which name, and its kind ("partial" ...).

    As `write_atomically` and `yinggem.export.folder` call what they write. What may still be written stays.
    """
    for path in folder.glob(".*"):
        match = LEFTOVER.fullmatch(path.name)
        if match and not _is_alive(int(match[2])):
            yield path, match[1], match[3]


def _is_alive(pid: int) -> bool:
    """Whether a process, whose number stands in the name of a partial file, may still be writing it."""
    if pid == os.getpid():  # this process is not writing one now
        return False
    if os.name == "nt":  # where signal 0 means Ctrl-C
        return True
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        return True
    return True


def find_paths(folder: str | Path, pattern: str) -> list[Path]:
    """The paths below a folder, sorted, hidden ones left out. Paths that others remove meanwhile are skipped."""
    return sorted(Path(folder, name) for name in glob.glob(pattern, root_dir=folder))


def is_url(place: str) -> bool:
    """Whether this is a URL, such as https:// or s3://, and not a path; "local:" is one for litdata."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]+://|local:", place) is not None


def append_text(path: str | Path, text: str) -> None:
    """Add text to the end of a file; UserError when the system refuses, though part of it may be written."""
    try:
        with open(path, "a", encoding="utf-8", newline="", errors="surrogateescape") as file:
            file.write(text)
    except OSError as error:
        raise cannot_write(path, error) from None


def is_utf8(path: str | Path) -> bool:
    """Whether a name is valid UTF-8: some libraries take no other."""
    try:
        os.fspath(path).encode()
        return True
    except UnicodeEncodeError:
        return False


def cannot_write(path: str | Path, error: OSError) -> UserError:
    """What to say when the system refuses."""
    remedy = "make its folder first" if error.errno == errno.ENOENT else "choose a folder with room for it"
    return UserError(f"Cannot write {path} ({error.strerror or error}); {remedy}.")


def _sync_folder(folder: Path) -> None:
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except PermissionError:  # Windows cannot open a folder; nobody can open one without read permission
        return
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
