"""yinggem COMMAND, or python -m yinggem COMMAND."""

import importlib
import sys
from typing import NoReturn

from yinggem.common.command_line import run

PRINTS_ITS_RESULT = ("generate", "evaluate")  # the others write files, and go on where nothing can be printed
COMMANDS = {
    "train": "a model on a text",
    "generate": "text from a checkpoint",
    "evaluate": "how well a checkpoint predicts a text",
    "compare": "runs side by side",
    "quantize": "a checkpoint with weights of 8 or 4 bits",
    "shard": "token shards for data=streaming",
}


def main(arguments: list[str] | None = None) -> int:
    """Run the command that the first word names; returns the exit status."""
    command, *rest = (sys.argv[1:] if arguments is None else arguments) or ["--help"]
    if command not in COMMANDS:
        print("usage: yinggem COMMAND ...\n")
        for name, what in COMMANDS.items():
            print(f"  {name:10} {what}")
        return 0 if command in ("--help", "-h") else 2
    module = importlib.import_module(f"yinggem.commands.{command}")
    if command == "train":
        return int(module.main(rest))  # it has endings of its own
    return run(lambda: module.main(rest), keep_going=command not in PRINTS_ITS_RESULT)


def run_earlier(command: str) -> NoReturn:
    """Be `python -m yinggem.COMMAND`, as it was typed before there was one program for all."""
    print(f"note: type `yinggem {command}` or `python -m yinggem {command}`; this name goes away.", file=sys.stderr)
    sys.exit(main([command, *sys.argv[1:]]))


if __name__ == "__main__":
    sys.exit(main())
