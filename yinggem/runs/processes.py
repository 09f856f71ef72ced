"""The processes of one run: which of them this is, and how one that another has started reports and ends.

Lightning starts the other processes of a run on one machine. torchrun, Slurm or a script of one's own may start all of
them instead, on many machines, each with the same command.
"""

import atexit
import contextlib
import os
import sys
import threading
import time
from collections.abc import Sequence
from typing import NoReturn, Protocol

PARENT, VOICE = "YINGGEM_PARENT", "YINGGEM_VOICE"  # process id, and file descriptor to report to it


class Launcher(Protocol):
    """What has started the other processes of a run."""

    def failure(self, seconds: float) -> str:
        """What is known about one that failed, after waiting for some seconds; empty when none did."""


class ProcessGroup:
    """What a command knows of the other processes of its run; it makes one and gives it to the Trainer.

    Args:
        command: the words that start another process of the run; empty: Lightning repeats those of this one.
    """

    def __init__(self, command: Sequence[str] = ()) -> None:
        self.command = list(command)
        self.formed = False  # whether this process trains in a process group of torch, even one of its own
        self.launcher: Launcher | None = None

    def failure(self) -> str:
        """What is known of another process that ended this run; empty if none did."""
        return self.launcher.failure(3) if self.launcher else ""


def rank() -> int:
    """0 in the one process of a run that writes files and prints."""
    for name in ("RANK", "SLURM_PROCID"):
        if name in os.environ:
            return environment_number(name)
    return environment_number("NODE_RANK") + environment_number("LOCAL_RANK")  # only whether it is 0 matters


def environment_number(name: str) -> int:
    """The whole number in an environment variable; 0 where there is none."""
    value = os.environ.get(name, "0")
    return int(value) if value.isdecimal() else 0


def end_with_parent() -> None:
    """In a process that a run has started: end when the run has ended, for whatever reason."""
    if parent := environment_number(PARENT):
        threading.Thread(target=_watch, args=(parent,), daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def tell_parent(sentence: str) -> bool:
    """Report to the process that started this one and prints for all; False if no run started it."""
    if VOICE not in os.environ:
        return False
    with contextlib.suppress(OSError):  # it is gone already, and nobody waits for this process
        os.write(environment_number(VOICE), sentence.encode() + b"\n")
    return True


def exit_without_teardown(status: int) -> NoReturn:
    """End this process without shutting the interpreter down.

    The threads that carry a process group's tensors may not have let go of the last ones yet. They need the interpreter
    for it, and abort the process when they find it half gone (https://github.com/pytorch/pytorch/issues/190489).
    """
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # nobody reads it any more
            stream.flush()
    os._exit(status)
