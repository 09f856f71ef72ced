"""yinggem COMMAND, or python -m yinggem COMMAND. A module of yinggem/commands with a function `main` is a command."""

import ast
import difflib
import importlib
import sys
from pathlib import Path
from typing import NoReturn

from yinggem import __version__
from yinggem.common.command_line import run

# The others write files, and go on where nothing can be printed.
PRINTS_ITS_RESULT = ("generate", "evaluate", "copies", "inspect")
COMMANDS = Path(__file__).parent / "commands"


def main(arguments: list[str] | None = None) -> int:
    """Run the command that the first word names; returns the exit status."""
    name, *rest = (sys.argv[1:] if arguments is None else arguments) or ["--help"]
    if name in ("--help", "-h"):
        return run(lambda: print(usage()))
    if name == "--version":
        return run(lambda: print(f"yinggem {__version__}"))
    if not (name.isidentifier() and summary(COMMANDS / f"{name}.py")):
        print(f"error: {unknown(name)}", file=sys.stderr)
        return 2
    return run(
        lambda: importlib.import_module(f"yinggem.commands.{name}").main(rest), keep_going=name not in PRINTS_ITS_RESULT
    )


def commands() -> dict[str, str]:
    """Every command and what it does, in one line. Nothing is imported, for that would take seconds."""
    found = {path.stem: summary(path) for path in sorted(COMMANDS.glob("*.py"))}
    return {name: line for name, line in found.items() if line}


def summary(path: Path) -> str:
    """The first line of a command's docstring; empty where the file is no command."""
    try:
        tree = ast.parse(path.read_bytes())
    except OSError:
        return ""
    is_command = any(isinstance(node, ast.FunctionDef) and node.name == "main" for node in tree.body)
    return (ast.get_docstring(tree) or path.stem).splitlines()[0] if is_command else ""


def usage() -> str:
    """What `yinggem --help` prints."""
    lines = [f"  {name:10} {line}" for name, line in commands().items()]
    return "\n".join(["usage: yinggem COMMAND ...", "", *lines, "", "yinggem COMMAND --help shows its options."])


def unknown(name: str) -> str:
    """The sentence on a command that does not exist."""
    known = commands()
    near = difflib.get_close_matches(name, known, n=2, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else f"the commands are {', '.join(known)}."
    return f"There is no command {name[:40]!a}; {hint}"


def run_earlier(command: str) -> NoReturn:
    """Be `python -m yinggem.COMMAND`, as it was typed before there was one program for all."""
    print(f"note: type `yinggem {command}` or `python -m yinggem {command}`; this name goes away.", file=sys.stderr)
    sys.exit(main([command, *sys.argv[1:]]))


if __name__ == "__main__":
    sys.exit(main())
