"""What a command puts on disk before its run has begun, and how it is taken back when the run is refused."""

import contextlib
from collections.abc import Callable
from pathlib import Path

from yinggem.runs.layout import SWEEP, create_run_folder, forget_latest, name_latest, read_latest
from yinggem.runs.processes import rank


class NewRun:
    """The run folder that a command has created, and where outputs/latest led before.

    A refused command changes nothing on disk: `withdraw` takes back what is here.

    Args:
        agree: lets processes that were started together get the folder that the first of them created.
    """

    def __init__(self, agree: Callable[[Callable[[], str]], str]) -> None:
        self.agree = agree
        self.only_shows = False  # a command that trains nothing creates nothing
        self._claimed: dict[str, str] = {}  # Hydra resolves a folder several times
        self._before: tuple[Path, Path | None] | None = None  # outputs, and the run that latest named

    @property
    def claimed(self) -> Path | None:
        """The folder that this command has created."""
        return next(map(Path, self._claimed.values()), None)

    def claim(self, wanted: str) -> str:
        """Create the folder `wanted`, or one beside it if there is one already; always the same for this command."""
        if self.only_shows:
            return wanted
        if wanted not in self._claimed:
            self._claimed[wanted] = self.agree(lambda: create_run_folder(wanted))
        return self._claimed[wanted]

    def name_latest(self, outputs: Path, run: Path) -> None:
        """Let outputs/latest name the run."""
        self._before = self._before or (outputs, read_latest(outputs))
        name_latest(outputs, run)

    def withdraw(self) -> None:
        """Remove the folder of a run that never began, and let outputs/latest name what it named before."""
        folder = self.claimed
        if folder is None or rank() or {path.name for path in _entries(folder)} - {".hydra", SWEEP}:
            return
        for path in (folder / SWEEP, *_entries(folder / ".hydra")):
            path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            if (folder / ".hydra").is_dir():
                (folder / ".hydra").rmdir()
            folder.rmdir()
            folder.parent.rmdir()  # the day's, if this was its only run
        if self._before:
            outputs, run = self._before
            name_latest(outputs, run) if run else forget_latest(outputs)


def _entries(folder: Path) -> list[Path]:
    return list(folder.iterdir()) if folder.is_dir() else []
