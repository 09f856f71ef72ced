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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from yinggem.common.errors import UserError
from yinggem.common.files import write_atomically

LARGE_BYTES, FILE_BYTES = 1 << 28, 1 << 12
BELIEVED_SECONDS = 7 * 24 * 3600
SETTLED_SECONDS = 2.0  # a file written in the same tick of the clock would look unchanged

FileState = tuple[str, int, int, int]  # path, bytes, times of the last change of content and of status in ns


def state_of(path: Path) -> FileState:
    """Path, size and times, by which a change is noticed; OSError when there is no such file."""
    stat = os.stat(path)
    return (os.path.abspath(path), stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)


@dataclass(frozen=True)
class Files:
    """Any number of files as they are, in the memory of one.

    Attributes:
        digest: of the states of all, in their order.
        youngest: the time of the last change of any, in ns.
    """

    digest: str
    count: int
    bytes: int
    youngest: int

    @classmethod
    def of(cls, states: Iterable[FileState]) -> "Files":
        """What the states of files say together."""
        digest, count, total, youngest = hashlib.sha256(), 0, 0, 0
        for state in states:
            _, size, mtime, ctime = state
            digest.update(json.dumps(state).encode())
            count, total, youngest = count + 1, total + size, max(youngest, mtime, ctime)
        return cls(digest.hexdigest(), count, total, youngest)

    @property
    def are_large(self) -> bool:
        """Whether reading them takes a while; to open a small one takes as long as to read FILE_BYTES."""
        return self.bytes + self.count * FILE_BYTES >= LARGE_BYTES


def recall(note: Path, files: Files) -> Any:
    """What `remember` kept, if the files are as they were; else None."""
    if not files.are_large:
        return None
    try:
        content = json.loads(note.read_bytes())
        value, age = content["value"], time.time() - note.stat().st_mtime
        return value if content["digest"] == _digest(files, value) and 0 <= age < BELIEVED_SECONDS else None
    except (OSError, ValueError, TypeError, LookupError, RecursionError):
        return None


def remember(note: Path, files: Files, value: Any) -> None:
    """Keep a JSON value that was found by reading the files; a full disk is not an error."""
    if files.are_large and time.time() - files.youngest / 1e9 > SETTLED_SECONDS:
        with contextlib.suppress(UserError):
            write_atomically(note, json.dumps({"value": value, "digest": _digest(files, value)}).encode())


def _digest(files: Files, value: Any) -> str:
    return hashlib.sha256(json.dumps([files.digest, value]).encode()).hexdigest()
