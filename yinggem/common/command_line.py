"""What generate.py and yinggem.commands.evaluate take on the command line, checked before anything slow is imported."""

import argparse
import os
import sys
import traceback
from collections.abc import Callable
from typing import NoReturn

from yinggem.common.errors import UserError

INTERRUPTED = 130  # what shells report for Ctrl-C


class Parser(argparse.ArgumentParser):
    """argparse whose complaint is one sentence."""

    def error(self, message: str) -> NoReturn:
        """Print the sentence and leave with status 2."""
        message = " ".join(message.removeprefix("argument ").split())
        if message.endswith("expected one argument"):  # argparse takes "---" and "-ROMEO" for options
            message += f", and as {message.partition(':')[0]}=VALUE where it begins with a dash"
        print(f"error: {message}; see --help.", file=sys.stderr)
        raise SystemExit(2)


def whole(low: int, high: int = 1 << 31) -> Callable[[str], int]:
    """An argparse type: a whole number from `low` to `high`."""

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = low - 1
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"must be a whole number from {low} to {high}, not {text[:40]!r}")
        return value

    return parse


def number(text: str) -> float:
    """An argparse type: a number; its range is checked by `Sampling`."""
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a number, not {text[:40]!r}") from None


def run(main: Callable[[], None]) -> int:
    """Run a command and return its exit status: errors are one sentence, a closed pipe and Ctrl-C are quiet."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:  # closed by the shell, as with >&-
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115 - as long as the process lives
        if hasattr(stream := getattr(sys, name), "reconfigure"):
            stream.reconfigure(encoding="utf-8", errors="replace")
    try:
        main()
        sys.stdout.flush()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:  # the reader has what it wanted
        forget_output()
    except OSError as error:  # of reading and writing files those who do it have made sentences
        forget_output()
        what = f"{error.filename or 'the output'} ({error.strerror or error})"
        print(f"error: Cannot write {what}; make room, or write elsewhere.", file=sys.stderr)
        return 2
    except Exception as error:  # nothing that a user should see as a traceback
        from yinggem.common.explain import in_short

        if os.environ.get("YINGGEM_TRACEBACK", "0") not in ("", "0"):
            traceback.print_exc()
        print(f"error: {in_short(error)}", file=sys.stderr)
        return 2
    return 0


def forget_output() -> None:
    """What could not be printed shall not be tried again, and complained of, when Python ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
