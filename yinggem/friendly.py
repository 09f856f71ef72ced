"""From an exception to the one sentence a user can act on."""

import difflib
import re
from pathlib import Path
from typing import Any

from yinggem.errors import UserError

TRACEBACK = "YINGGEM_TRACEBACK=1 shows where"


def explain(error: BaseException, conf: Path) -> str:
    """One sentence for an error of the configuration or of a run.

    Args:
        error: what was raised; its causes are searched for a sentence of ours.
        conf: the folder of configuration files, for near matches of a misspelt name.
    """
    ours = next((cause for cause in causes(error) if isinstance(cause, UserError)), None)
    if ours is not None:
        return str(ours)
    text = str(error)
    if match := re.search(r"(?:Could not find|In '.*': Could not find) '([^']+)'", text):
        return _unknown_option(match[1], conf)
    if match := re.search(r"Could not override '([^']+)'|Could not (?:append|delete).*?'([^']+)'", text):
        name = match[1] or match[2]
        return f"There is no setting {name!r} to override{_near(name, settings(conf))}."
    if match := re.search(r"Key '([^']+)' is not in struct", text):
        return f"There is no setting {match[1]!r}{_near(match[1], settings(conf))}."
    deepest = list(causes(error))[-1]
    line = " ".join(str(deepest).split()) or type(deepest).__name__
    if len(line) > 300:
        line = line[:300] + " ..."
    return f"{line.rstrip('.')} ({type(deepest).__name__}; {TRACEBACK})."


def causes(error: BaseException) -> list[BaseException]:
    """The error and what caused it, outermost first."""
    chain: list[BaseException] = []
    current: BaseException | None = error
    while current is not None and current not in chain:
        chain.append(current)
        current = current.__cause__ or (None if current.__suppress_context__ else current.__context__)
    return chain


def settings(conf: Path) -> list[str]:
    """Dotted names of everything that can be overridden."""
    names = set[str]()
    for path in conf.rglob("*.yaml"):
        group = [] if path.parent == conf or path.parent.name == "experiment" else [path.parent.name]
        names |= set(group) | {".".join([*group, name]) for name in _dotted(_read(path))}
    return sorted(names)


def _unknown_option(name: str, conf: Path) -> str:
    group, _, option = name.rpartition("/")
    options = sorted(path.stem for path in (conf / group).glob("*.yaml")) if group else []
    if not options:
        groups = sorted(path.name for path in conf.iterdir() if path.is_dir())
        return f"There is no group {name!r}{_near(name, groups)}; the groups are {', '.join(groups)}."
    return f"{group}={option} does not exist{_near(option, options)}; choose from {', '.join(options)}."


def _near(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    if not close:
        close = [other for other in known if other.rpartition(".")[2] == name.rpartition(".")[2]][:3]
    return f"; did you mean {' or '.join(close)}?" if close else ""


def _read(path: Path) -> Any:
    import yaml

    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError):
        return None


def _dotted(tree: Any, prefix: str = "") -> set[str]:
    if not isinstance(tree, dict):
        return set()
    names = set[str]()
    for name, value in tree.items():
        if not str(name).startswith("_") and name != "defaults":
            names |= {f"{prefix}{name}"} | _dotted(value, f"{prefix}{name}.")
    return names
