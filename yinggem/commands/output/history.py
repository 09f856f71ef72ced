"""The lines that were typed at `generate --interactive`, kept from one session to the next."""

import os
from pathlib import Path

from yinggem.common.cache_folder import locked
from yinggem.common.errors import UserError
from yinggem.common.files import cannot_write, write_atomically

MOST = 1000  # lines
PLACE = "YINGGEM_HISTORY"  # another file; empty: none


def default_place() -> Path | None:
    """$YINGGEM_HISTORY, else yinggem/history in $XDG_STATE_HOME or ~/.local/state; None where none is wanted.

    It is not in the cache, which several people may share.
    """
    named = os.environ.get(PLACE)
    if named is not None:
        return Path(named).expanduser() if named else None
    return Path(os.environ.get("XDG_STATE_HOME") or "~/.local/state", "yinggem", "history").expanduser()


class LineHistory:
    """The last lines, in a file that its owner alone can read. Several sessions may add to it at once.

    Args:
        place: the file; its folder is made when the first line is kept.
    """

    def __init__(self, place: Path) -> None:
        self.place = place

    def lines(self) -> list[str]:
        """The oldest first.

        Raises:
            UserError: they cannot be read.
        """
        try:
            return self.place.read_text(encoding="utf-8", errors="surrogateescape").splitlines()[-MOST:]
        except FileNotFoundError:
            return []
        except OSError as error:
            raise UserError(
                f"Cannot read {self.place} ({error.strerror or error}); leave it out with --no-history."
            ) from None

    def add(self, line: str) -> None:
        """Keep one more, unless it is empty or the last again.

        Raises:
            UserError: it cannot be written.
        """
        try:
            self.place.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise cannot_write(self.place, error) from None
        with locked(self.place):
            before = self.lines()
            if not line.strip() or before[-1:] == [line]:
                return
            content = "".join(f"{one}\n" for one in [*before, line][-MOST:])
            write_atomically(self.place, content.encode("utf-8", "surrogateescape"), mode=0o600)
