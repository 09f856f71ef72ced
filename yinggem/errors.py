"""The one exception a user is meant to read, and the one that ends a run on request."""

from pathlib import Path

stops: list[int] = []  # the signals that have asked this process to end: libraries turn a StopRequested into errors


class UserError(ValueError):
    """Bad input: one sentence that names the file, option or value and the remedy.

    `train.py` and `generate.py` print it without a traceback and exit with status 2.
    """


class StopRequested(BaseException):
    """The run was asked to stop. No error: a sweep ends with it, as with Ctrl-C.

    Args:
        signum: the signal that asked.
        step, path: the checkpoint that was written because of it; None where training was not under way.
    """

    def __init__(self, signum: int, step: int | None = None, path: Path | None = None) -> None:
        super().__init__(signum, step, path)
        self.signum, self.step, self.path = signum, step, path
