"""The one exception a user is meant to read."""


class UserError(ValueError):
    """Bad input: one sentence that names the file, option or value and the remedy.

    `train.py` and `generate.py` print it without a traceback and exit with status 2.
    """
