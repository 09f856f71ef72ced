"""generate --interactive at a terminal: one text, written in turns, and commands that begin with a slash."""

import difflib
from argparse import Namespace
from collections.abc import Callable
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from yinggem.commands.output.history import LineHistory
from yinggem.common.errors import UserError
from yinggem.common.files import write_atomically
from yinggem.inference.conversation import Conversation
from yinggem.inference.generation import Network
from yinggem.inference.networks.rows import rows_of
from yinggem.inference.sampling import Sampling
from yinggem.text.tokenizer import Tokenizer

HELP = """Each line continues the text; an empty one lets the model go on. A line that ends with \\ goes on in the next.
/reset begins anew, /save FILE keeps the text, /seed N another seed, /length N tokens a turn, /show what is set,
/temperature 0.8 and so on for every setting, off for what limits nothing; //... is a line that begins with a slash.
Ctrl-C stops the text; Ctrl-D or /quit leaves.
"""
COMMANDS = ("help", "quit", "reset", "save", "seed", "length", "show")
OFF = "off"  # a setting that is None


class Terminal:
    """What a person has set, and the text.

    Args:
        show: prints at once.
        history: where lines are kept for other sessions; None: nowhere.
    """

    def __init__(
        self,
        network: Network,
        tokenizer: Tokenizer,
        options: Namespace,
        sampling: Sampling,
        show: Callable[[str], None],
        history: LineHistory | None = None,
    ) -> None:
        share = 1.0 if options.memory is None else options.memory
        training = options.training if options.max_copy is not None else None
        self.conversation = Conversation(
            rows_of(network), tokenizer, sampling, options.seed, tuple(options.stop), options.counts, share, training,
            options.max_copy, options.ignore_end,
        )  # fmt: skip
        self.length, self._show, self.history = options.max_new_tokens, show, history

    def run(self) -> None:
        """Ask for lines until Ctrl-D or /quit. Ctrl-C ends a text that is being made; at the prompt it leaves too."""
        self._recall()
        self._show("/help tells what can be typed.\n")
        try:
            while True:
                line = read_lines(self._keep)
                try:
                    self.take(line)
                except UserError as error:
                    self._show(f"error: {error}\n")
                except KeyboardInterrupt:
                    self._show("\n")
        except (EOFError, KeyboardInterrupt):
            self._show("\n")

    def _recall(self) -> None:
        """Let the arrow keys bring earlier lines back, those of other sessions too, where the system can."""
        try:
            import readline  # input() uses it once it is imported
        except ImportError:
            self.history = None
            return
        try:
            for line in self.history.lines() if self.history else []:
                readline.add_history(line)
        except UserError as error:
            self._forget(error)

    def _keep(self, line: str) -> None:
        """For the next session."""
        try:
            if self.history:
                self.history.add(line)
        except UserError as error:
            self._forget(error)

    def _forget(self, error: UserError) -> None:
        """Go on without: nobody should lose a text for its sake."""
        self._show(f"note: {error}\n")
        self.history = None

    def take(self, line: str) -> None:
        """Do what a line says, or write on behind it.

        Raises:
            UserError: it cannot be done.
        """
        if line.startswith("/") and not line.startswith("//"):
            name, _, value = line[1:].strip().partition(" ")
            self.obey(name, value.strip())
            return
        if not line.strip() and self.conversation.tokenizer.template is not None:
            return  # no question
        for piece in self.conversation.say(line.removeprefix("/") if line.startswith("//") else line, self.length):
            self._show(piece)
        self._show("\n")

    def obey(self, name: str, value: str) -> None:
        """Do what a command says."""
        if name == "help":
            self._show(HELP)
        elif name == "show":
            settings = asdict(self.conversation.sampling) | {"seed": self.conversation.seed, "length": self.length}
            self._show("".join(f"/{key} {OFF if one is None else one}\n" for key, one in settings.items()))
        elif name == "quit":
            raise EOFError
        elif name == "reset":
            self.conversation.reset()
        elif name == "save":
            self.save(value)
        elif name == "seed":
            self.conversation.seed = whole(name, value, 0)
        elif name == "length":
            self.length = whole(name, value, 1)
        else:
            self.set(name, value)

    def set(self, name: str, value: str) -> None:
        """Another value of a setting of sampling."""
        known = {one.name: one for one in fields(Sampling)}
        if name not in known:
            near = difflib.get_close_matches(name, (*known, *COMMANDS), n=1, cutoff=0.5)
            raise UserError(
                f"There is no command /{name[:40]}; {f'did you mean /{near[0]}?' if near else 'see /help.'}"
            )
        kind = int if known[name].metadata["whole"] else float
        try:
            number: Any = None if value == OFF else kind(value)
        except ValueError:
            raise UserError(f"/{name} needs a number, not {value[:40]!r}.") from None
        self.conversation.sampling = Sampling(**asdict(self.conversation.sampling) | {name: number})

    def save(self, place: str) -> None:
        """Keep the text in a new file."""
        if not place:
            raise UserError("/save needs the name of a file.")
        if Path(place).exists():
            raise UserError(f"{place} is there already; name another file.")
        try:
            write_atomically(Path(place), self.conversation.text.encode())
        except OSError as error:
            raise UserError(f"Cannot write {place} ({error.strerror}); name another file.") from None
        self._show(f"{len(self.conversation.text)} characters are in {place}.\n")


def whole(name: str, value: str, low: int) -> int:
    """The value of a command that takes a whole number."""
    if not (value.isdecimal() and low <= int(value) < 1 << 62):
        raise UserError(f"/{name} needs a whole number from {low} on, not {value[:40]!r}.")
    return int(value)


def read_lines(heard: Callable[[str], None]) -> str:
    """What is typed: one line, or several where all but the last end with a backslash; `heard` is told each."""
    line = input("> ")
    heard(line)
    while line.endswith("\\"):
        more = input(". ")
        heard(more)
        line = f"{line[:-1]}\n{more}"
    return line
