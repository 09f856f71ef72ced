"""Being asked to stop by a signal: Ctrl-C, SIGTERM, and SIGHUP where a terminal can be closed."""

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any


class StopRequested(BaseException):
    """The run was asked to stop. It is not an error: a sweep ends with it, as with Ctrl-C.

    Args:
        signum: the signal that asked.
        step, path: the checkpoint that was written because of it; None where training was not under way.
    """

    def __init__(self, signum: int, step: int | None = None, path: Path | None = None) -> None:
        super().__init__(signum, step, path)
        self.signum, self.step, self.path = signum, step, path


class StopSignal:
    """The signal that asked for the end of what runs now; 0 while none has.

    A library may catch the StopRequested that a handler raises, in a bare `except` around an import, say. Code
    that can stop cleanly looks here.
    """

    signum: int = 0

    def raise_if_asked(self, cause: BaseException | None = None) -> None:
        """Raise StopRequested again if a library swallowed the one of the handler."""
        if self.signum:
            raise StopRequested(self.signum) from cause


stop_signal = StopSignal()  # one for the process, because its signal handlers are

# SIGHUP (not on Windows) comes when an ssh session closes; where nohup ignores it, it stays ignored.
STOPPING = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


def stopping_signals() -> list[int]:
    """The signals that ask for the end of a run: `STOPPING` without those that were ignored before it began."""
    return [number for number in STOPPING if signal.getsignal(number) != signal.SIG_IGN]


def leave_stopping_to_parent(worker: int) -> None:
    """Ignore, in a process that loads data, what a terminal sends to all: the run decides when its loaders end.

    One that was not forked, as Python 3.14 starts them, has Python's handlers and would end in the middle of a batch.
    SIGTERM is its own: torch ends it so.
    """
    for number in set(STOPPING) - {signal.SIGTERM}:
        signal.signal(number, signal.SIG_IGN)


@contextlib.contextmanager
def stopping_on_signals() -> Iterator[None]:
    """Signals raise StopRequested wherever the program is; a second Ctrl-C ends it without a message."""

    process = os.getpid()

    def leave(signum: int, frame: Any) -> None:
        if os.getpid() != process:  # forked, to load data: Ctrl-C in a terminal reaches it as well, and is not its own
            if signum == signal.SIGTERM:
                signal.signal(signum, signal.SIG_DFL)
                signal.raise_signal(signum)
            return
        stop_signal.signum = signum
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        raise StopRequested(signum)

    try:
        before = {number: signal.signal(number, leave) for number in stopping_signals()}
    except ValueError:  # not the main thread: signals are its owner's
        before = {}
    try:
        yield
    except StopRequested:
        raise
    except BaseException as error:
        if not isinstance(error, SystemExit | GeneratorExit):
            stop_signal.raise_if_asked(error)  # a library caught the stop, and failed because of what it left half done
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        stop_signal.signum = 0
