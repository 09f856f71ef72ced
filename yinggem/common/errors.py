"""The one exception a user is meant to read."""

import unicodedata

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
