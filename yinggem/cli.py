"""What generate.py and yinggem.evaluate take on the command line, checked before anything slow is imported."""

import argparse
import os
import sys
import traceback
from collections.abc import Callable
from dataclasses import fields
from typing import TYPE_CHECKING, NoReturn

from yinggem.config import QUANTIZATIONS
from yinggem.errors import UserError
from yinggem.sampling import Sampling, default_repetition_penalty

if TYPE_CHECKING:
    import torch

INTERRUPTED = 130  # what shells report for Ctrl-C
MAX_PROMPT_BYTES = 1 << 28  # /dev/zero has no end


class Parser(argparse.ArgumentParser):
    """argparse whose complaint is one sentence."""

    def error(self, message: str) -> NoReturn:
        """Print the sentence and leave with status 2."""
        message = " ".join(message.removeprefix("argument ").split())
        if message.endswith("expected one argument"):  # argparse takes "---" and "-ROMEO" for options
            message += f", and as {message.partition(':')[0]}=VALUE where it begins with a dash"
        print(f"error: {message}; see --help.", file=sys.stderr)
        raise SystemExit(2)


def generation_parser() -> Parser:
    """The options of generate.py."""
    parser = Parser("generate.py", description="Generate text from a checkpoint.", allow_abbrev=False)
    add = parser.add_argument
    add("--checkpoint", metavar="FILE", help="default: the newest run's best, under outputs/")
    prompt = parser.add_mutually_exclusive_group()
    prompt.add_argument("--prompt", default="", metavar="TEXT", help="text to continue; empty starts from a newline")
    prompt.add_argument("--prompt-file", metavar="FILE", help="a UTF-8 file with the text to continue")
    add("--max-new-tokens", type=whole(1), default=500, metavar="N", help="length of a sample (default: 500)")
    add("--temperature", type=number, default=0.9, metavar="X", help="0 takes the likeliest token (default: 0.9)")
    add("--top-k", type=whole(1), metavar="K", help="draw from the K likeliest tokens")
    add(
        "--top-p",
        type=number,
        default=0.85,
        metavar="P",
        help="... from those that reach probability P (default: 0.85)",
    )
    add("--min-p", type=number, metavar="P", help="... from those at least P times as likely as the likeliest")
    add("--typical-p", type=number, metavar="P", help="... from the most typical ones that reach probability P")
    add("--repetition-penalty", type=number, metavar="X", help="default: 1.2, and 1 for the char and byte tokenizers")
    add("--repetition-window", type=whole(1), metavar="N", help="penalise ids among the last N (default: all)")
    add("--no-repeat-ngram-size", type=whole(0), default=0, metavar="N", help="no N tokens in a row occur twice")
    add("--stop", action="append", default=[], metavar="TEXT", help="end a sample before this text; repeatable")
    add("--num-samples", type=whole(1, 4096), default=1, metavar="N", help="samples with seeds SEED, SEED + 1, ...")
    add("--seed", type=whole(0, 1 << 62), default=0, metavar="N", help="another seed, another text (default: 0)")
    add("--quantize", choices=QUANTIZATIONS, help="weights of 8 or 4 bits: less memory, and faster on x86 processors")
    add("--device", metavar="NAME", help="cpu, cuda, cuda:1, mps ... (default: the fastest there is)")
    add("--interactive", action="store_true", help="ask for prompts; Ctrl-D leaves")
    add("--json", action="store_true", help="print one JSON object per sample")
    return parser


def parse_generation(arguments: list[str] | None = None) -> argparse.Namespace:
    """Parse and check the options of generate.py; `prompt` holds the file's text where a file is named.

    Raises:
        SystemExit: status 2, or 0 after --help.
        UserError: a value is out of range or the prompt file cannot be read.
    """
    options = generation_parser().parse_args(arguments)
    sampling_of(options)
    if not all(options.stop):
        raise UserError("--stop must not be empty; leave it out to generate to the full length.")
    if options.interactive and (options.json or options.prompt or options.prompt_file):
        raise UserError("--interactive asks for prompts itself; leave out --prompt, --prompt-file and --json.")
    if options.prompt_file is not None:
        options.prompt = read_text(options.prompt_file)
    return options


def sampling_of(options: argparse.Namespace, tokenizer_name: str = "") -> Sampling:
    """The sampling settings of the options; the default of the repetition penalty depends on the tokenizer."""
    values = {field.name: getattr(options, field.name) for field in fields(Sampling)}
    if values["repetition_penalty"] is None:
        values["repetition_penalty"] = default_repetition_penalty(tokenizer_name)
    return Sampling(**values)


def read_text(path: str) -> str:
    """A UTF-8 file's text, without a byte order mark and with every line end `\\n`, as texts are trained on."""
    try:
        with open(path, "rb") as file:
            content = file.read(MAX_PROMPT_BYTES + 1)
        if len(content) > MAX_PROMPT_BYTES:
            raise UserError(f"{path} is longer than {MAX_PROMPT_BYTES >> 20} MB; name a shorter text to continue.")
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text (byte {error.start}); convert it, or name another file.") from None
    except UserError:
        raise
    except (OSError, ValueError) as error:
        raise UserError(
            f"Cannot read {path} ({getattr(error, 'strerror', None) or error}); name a text file."
        ) from None
    return text.replace("\r\n", "\n").replace("\r", "\n")


def choose_device(name: str | None) -> "torch.device":
    """The device of that name, else the fastest there is; UserError when this machine cannot use it."""
    import torch

    if name is None:
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).tolist()
    except Exception:  # torch raises half a dozen kinds, down to AssertionError
        raise UserError(f"--device {name!r} cannot be used on this machine; leave it out, or use cpu.") from None
    return device


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
        from yinggem.friendly import in_short

        if os.environ.get("YINGGEM_TRACEBACK", "0") not in ("", "0"):
            traceback.print_exc()
        print(f"error: {in_short(error)}", file=sys.stderr)
        return 2
    return 0


def forget_output() -> None:
    """What could not be printed shall not be tried again, and complained of, when Python ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
