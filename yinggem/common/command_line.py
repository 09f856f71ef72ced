"""Command lines of all but train: options checked before anything slow is imported, errors as one sentence."""

import argparse
import os
import sys
import traceback
from collections.abc import Callable
from typing import NoReturn

from yinggem.common.errors import UserError
from yinggem.common.streams import discard_output, make_streams_safe, reader_is_gone

INTERRUPTED = 130  # what shells report for Ctrl-C


class Parser(argparse.ArgumentParser):
    """argparse that reports an error as one sentence."""

    def error(self, message: str) -> NoReturn:
        """Print the sentence and leave with status 2."""
        message = " ".join(message.removeprefix("argument ").split())
        if message.endswith("expected one argument"):  # argparse takes "---" and "-ROMEO" for options
            message += f"; write {message.partition(':')[0]}=VALUE if it begins with a dash"
        if message.startswith("unrecognized arguments: ") and not message.split()[2].startswith("-"):
            names = [name for action in self._actions if action.nargs is None for name in action.option_strings[-1:]]
            message += f"; every value follows the name of its option ({', '.join(names[:8])})"
        elif message.startswith("unrecognized arguments: "):
            import difflib  # not at every start

            known = [name for action in self._actions for name in action.option_strings]
            near = difflib.get_close_matches(message.split()[2].partition("=")[0].replace("_", "-"), known, n=1)
            message += f"; did you mean {near[0]}?" if near else ""
        print(f"error: {message}{' See' if message.endswith('?') else '; see'} --help.", file=sys.stderr)
        raise SystemExit(2)


def whole_number(low: int, high: int = 1 << 31) -> Callable[[str], int]:
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


def run(main: Callable[[], int | None], keep_going: bool = False) -> int:
    """Run a command and return its exit status: errors are one sentence, a closed pipe and Ctrl-C are quiet.

    Args:
        keep_going: the result of the command is not what it prints, so that it goes on where printing fails.
    """
    make_streams_safe(keep_going)
    if os.curdir not in sys.path and "" not in sys.path:
        sys.path.append(os.curdir)  # a person's own modules, in every command
    try:
        status = main()
        sys.stdout.flush()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return INTERRUPTED
    except OSError as error:  # reading and writing files raises UserError: this is stdout's
        discard_output()
        if reader_is_gone(error):  # it has what it wanted
            return 0
        what = f"{error.filename or 'the output'} ({error.strerror or error})"
        print(f"error: Cannot write {what}; make room, or write elsewhere.", file=sys.stderr)
        return 2
    except Exception as error:  # a user should see a sentence, never a traceback
        from yinggem.common.explain import in_short

        if os.environ.get("YINGGEM_TRACEBACK", "0") not in ("", "0"):
            traceback.print_exc()
        print(f"error: {in_short(error)}", file=sys.stderr)
        return 2
    return status or 0
