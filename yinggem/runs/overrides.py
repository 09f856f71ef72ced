"""The words after `train.py`: Hydra's flags separated from settings, and paths and texts taken as they are written."""

import argparse
import os
import re
from collections.abc import Sequence

from yinggem.common.command_line import Parser
from yinggem.common.errors import UserError
from yinggem.common.files import is_url
from yinggem.common.program import typed

PATHS = ("ckpt_path", "init_from", "data.path", "data.cache_dir", "outputs", "run_dir")
TEXTS = ("data.template", "data.separator")  # taken as they are written, too
NEEDED = ("outputs", "run_dir")  # a run needs both
OPTIONAL = ("experiment", "debug", "profiler", "sweep", "launcher", "logger", "callbacks")
# Hydra knows null in its files only, and ~ for groups of one choice only.
NOTHING = {word: f"{group}=[]" for group in OPTIONAL for word in (f"{group}=null", f"~{group}")}
FLAGS: dict[tuple[str, ...], dict[str, object]] = {
    ("--help", "-h"): {"action": "store_true"},
    ("--hydra-help",): {"action": "store_true"},
    ("--version",): {"action": "store_true"},
    ("--cfg", "-c"): {"choices": ("job", "hydra", "all")},
    ("--resolve",): {"action": "store_true"},
    ("--package", "-p"): {},
    ("--run", "-r"): {"action": "store_true"},
    ("--multirun", "-m"): {"action": "store_true"},
    ("--shell-completion", "-sc"): {"action": "store_true"},
    ("--config-path", "-cp"): {},
    ("--config-name", "-cn"): {},
    ("--config-dir", "-cd"): {},
    ("--info", "-i"): {
        "nargs": "?",
        "const": "all",
        "choices": ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath"),
    },
}

SHOWING = ("--help", "-h", "--hydra-help", "--version", "--cfg", "-c", "--info", "-i", "--shell-completion", "-sc")


def tidy(arguments: list[str]) -> list[str]:
    """The same words in the order and the grammar that Hydra reads: flags first, paths in quotes.

    Raises:
        SystemExit: status 2 after one sentence, for an unknown flag.
    """
    parser = Parser("train.py", add_help=False, allow_abbrev=False)
    for names, options in FLAGS.items():
        parser.add_argument(*names, **options)  # type: ignore[arg-type]
    parser.add_argument("settings", nargs="*")
    found = parser.parse_intermixed_args(arguments)
    flags = _flags(found)
    if found.hydra_help or found.version:
        return flags  # Hydra would look for our settings in a configuration of its own
    _check_multirun(found)
    return [*flags, *(NOTHING.get(one) or quote_text(quote_path(one, found.multirun)) for one in found.settings)]


def _check_multirun(found: argparse.Namespace) -> None:
    """UserError for what makes sense with -m only."""
    if found.multirun or found.cfg or found.info or found.help:
        return
    for setting in found.settings:
        group, _, choice = setting.lstrip("+").partition("=")
        if group in ("sweep", "launcher", "hydra/launcher", "hydra/sweeper") and choice not in ("", "null", "[]"):
            raise UserError(f"{setting} is for many runs from one command; write `{typed('train')} -m {setting}`.")


def only_shows(arguments: Sequence[str]) -> bool:
    """Whether the command prints something and trains nothing."""
    return any(argument.partition("=")[0] in SHOWING for argument in arguments if argument.startswith("-"))


def flags_of(words: Sequence[str]) -> list[str]:
    """Hydra's flags among words that are in order: they come first and are one word each."""
    return [word for word in words if word.startswith("-")]


def value_of(name: str, words: list[str]) -> str | None:
    """What the last setting of that name says; None when there is none."""
    values = [word.partition("=")[2] for word in words if word.startswith(f"{name}=")]
    return values[-1] if values else None


def unquoted(value: str) -> str:
    """The inverse of `quoted`, for a value that may be in quotes."""
    if len(value) < 2 or value[0] != value[-1] or value[0] not in "'\"":
        return value
    quote = value[0]
    return re.sub(rf"(\\+)({quote}|$)", lambda found: "\\" * (len(found[1]) // 2) + found[2], value[1:-1])


def _flags(found: argparse.Namespace) -> list[str]:
    words = []
    for names in FLAGS:
        value = getattr(found, names[0].lstrip("-").replace("-", "_"))
        if value is True:
            words.append(names[0])
        elif value:
            words.append(f"{names[0]}={value}")
    return words


def quote_path(setting: str, multirun: bool = False) -> str:
    """A setting that names a path, with the path in quotes where Hydra's grammar would read it as something else.

    Raises:
        UserError: the path is empty, as from an unset shell variable; it would mean / or the current folder.
    """
    name, equals, value = setting.partition("=")
    if name.lstrip("+") not in PATHS or not equals:
        return setting
    if value in ("null", "None") and name not in NEEDED:
        return setting
    if value in ("", "''", '""', "null", "None"):
        raise UserError(f"{name} needs a path; write {name}=PATH, or leave it out.")
    if value[0] in "'\"" or "${" in value or (multirun and "," in value and not os.path.exists(value)):
        return setting  # already in quotes; an interpolation; several paths, one for each job
    value = os.path.expanduser(value)
    if name.lstrip("+").startswith("data.") and not is_url(value):
        value = os.path.abspath(value)  # the run may be continued from another folder
    plain = re.fullmatch(r"(?:[A-Za-z_/]|\.\.?/)[A-Za-z0-9_./-]*", value) and value.lower() not in _WORDS
    return f"{name}={value if plain else quoted(value)}"


def quote_text(setting: str) -> str:
    """A setting whose value is any text, in quotes, which Hydra's grammar wants around most of what people write."""
    name, equals, value = setting.partition("=")
    is_plain = name.lstrip("+") not in TEXTS or value == "null" or value[:1] in ("'", '"')
    return setting if is_plain or not equals else f"{name}={quoted(value)}"


_WORDS = ("true", "false", "nan", "inf", "infinity", "null", "none", "yes", "no", "on", "off")


def quoted(value: object) -> str:
    """A text as a value of Hydra's override grammar, in which backslashes count only before a quote."""
    escaped = re.sub(r"(\\*)('|$)", lambda found: found[1] * 2 + ("\\'" if found[2] else ""), str(value))
    return f"'{escaped}'"
