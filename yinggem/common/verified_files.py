"""Notes on large files that were verified, so that they need not be read from end to end at every start.

A note holds for a week, while every file keeps its path, size and times. Damage that changes none of these is found
after that week at the latest. Small files have no note: reading them is quicker.
"""

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from yinggem.common.errors import UserError
from yinggem.common.files import write_atomically

LARGE_BYTES = 1 << 28
BELIEVED_SECONDS = 7 * 24 * 3600
SETTLED_SECONDS = 2.0  # a file written in the same tick of the clock would look unchanged

FileState = tuple[str, int, int, int]  # path, bytes, times of the last change of content and of status in ns


def state_of(path: Path) -> FileState:
    """Path, size and times, by which a change is noticed; OSError when there is no such file."""
    stat = os.stat(path)
    return (os.path.abspath(path), stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)


def recall(note: Path, states: Iterable[FileState]) -> Any:
    """What `remember` kept, if the files are as they were; else None."""
    states = list(states)
    if not _are_large(states):
        return None
    try:
        content = json.loads(note.read_bytes())
        value, age = content["value"], time.time() - note.stat().st_mtime
        return value if content["digest"] == _digest(states, value) and 0 <= age < BELIEVED_SECONDS else None
    except (OSError, ValueError, TypeError, LookupError, RecursionError):
        return None


def remember(note: Path, states: Iterable[FileState], value: Any) -> None:
    """Keep a JSON value that was found by reading the files; a full disk is not an error."""
    states = list(states)
    youngest = max((times for *_, mtime, ctime in states for times in (mtime, ctime)), default=0)
    if _are_large(states) and time.time() - youngest / 1e9 > SETTLED_SECONDS:
        with contextlib.suppress(UserError):
            write_atomically(note, json.dumps({"value": value, "digest": _digest(states, value)}).encode())


def _are_large(states: list[FileState]) -> bool:
    return sum(size for _, size, _, _ in states) >= LARGE_BYTES


def _digest(states: list[FileState], value: Any) -> str:
    return hashlib.sha256(json.dumps([states, value]).encode()).hexdigest()
