"""A run folder has one writer: a lock that dies with the process that holds it."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from filelock import BaseFileLock, FileLock, Timeout

from yinggem.common.errors import UserError
from yinggem.runs.layout import LOCK

PATIENCE = 7.0  # seconds: the data-loader processes of a run that was killed notice its end within five


@contextlib.contextmanager
def only_writer(run: Path, wait: bool = False) -> Iterator[None]:
    """Be the only process that writes to a run folder.

    Args:
        wait: until another process is done; otherwise it is an error.

    Raises:
        UserError: another process writes there.
    """
    path = run / LOCK
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        lock.acquire(timeout=-1 if wait else PATIENCE)
        _keep_from_children(lock)
        taken = False
    except Timeout:
        taken = True
    except (OSError, NotImplementedError):  # a file system without locks: the user has to take care
        taken = False
    if taken:
        raise UserError(
            f"Another process is writing to {run}; wait until it ends, or start another run, "
            "without ckpt_path and hydra.run.dir."
        )
    try:
        yield
    finally:
        lock.release()


def _keep_from_children(lock: BaseFileLock) -> None:
    """Close the lock's file in forked processes, or one that outlives this process would go on holding it."""
    descriptor = getattr(getattr(lock, "_context", None), "lock_file_fd", None)
    if descriptor is None or not hasattr(os, "register_at_fork"):
        return

    def close() -> None:
        if getattr(lock._context, "lock_file_fd", None) == descriptor:  # not released, so not another file's number
            with contextlib.suppress(OSError):
                os.close(descriptor)

    os.register_at_fork(after_in_child=close)
