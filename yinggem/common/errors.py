"""The one exception a user is meant to read, and the one that ends a run on request."""

import unicodedata
from pathlib import Path

BREAKS = ("Cc", "Cs", "Zl", "Zp")  # what ends a line, commands a terminal, or cannot be printed


def one_line(sentence: object) -> str:
    """The sentence on one line, whatever is in the names of files and settings that it quotes."""
    return "".join(ascii(c)[1:-1] if unicodedata.category(c) in BREAKS else c for c in str(sentence))


class UserError(ValueError):
    """Bad input: one sentence that names the file, option or value and the remedy.

    `train.py` and `generate.py` print it without a traceback and exit with status 2.
    """

    def __init__(self, sentence: str) -> None:
        super().__init__(one_line(sentence))


# Signals that asked for the end of what runs now. A library may catch the StopRequested of one, in a bare `except`
# around an import, say; what can stop in order looks here.
requested: list[int] = []


class StopRequested(BaseException):
    """The run was asked to stop. No error: a sweep ends with it, as with Ctrl-C.

    Args:
        signum: the signal that asked.
        step, path: the checkpoint that was written because of it; None where training was not under way.
    """

    def __init__(self, signum: int, step: int | None = None, path: Path | None = None) -> None:
        super().__init__(signum, step, path)
        self.signum, self.step, self.path = signum, step, path
