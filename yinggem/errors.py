"""The one exception a user is meant to read, and the one that ends a run on request."""

from pathlib import Path


class UserError(ValueError):
    """Bad input: one sentence that names the file, option or value and the remedy.

    `train.py` and `generate.py` print it without a traceback and exit with status 2.
    """


class StopRequested(BaseException):
    """The run was asked to stop, and its checkpoint is written. No error: a sweep ends with it, as with Ctrl-C."""

    def __init__(self, signum: int, step: int, path: Path) -> None:
        super().__init__(signum, step, path)
        self.signum, self.step, self.path = signum, step, path
