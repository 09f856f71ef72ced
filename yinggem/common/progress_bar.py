"""A bar on a terminal for slow work that the user did not ask for by name, such as tokenizing."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

BAR_AFTER_SECONDS = 2.0


@contextlib.contextmanager
def show_progress(title: str, total: int, done: int = 0) -> Iterator[Callable[[int], None]]:
    """Yields a function to report work done, of `total`; the bar appears once the work has taken a while."""
    start, bar = time.monotonic(), None

    def advance(work: int) -> None:
        nonlocal bar, done
        done += work
        if bar is None and sys.stderr.isatty() and time.monotonic() - start > BAR_AFTER_SECONDS:
            from rich.console import Console
            from rich.progress import Progress

            bar = Progress(console=Console(stderr=True), transient=True)
            bar.start()
            bar.add_task(title, total=total)
        if bar is not None:
            bar.update(bar.task_ids[0], completed=done)

    try:
        yield advance
    finally:
        if bar is not None:
            bar.stop()
