"""Does every value of a configuration have the right type? A setting may have the types it has in conf/."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from yinggem.common.checks import check_whole_number
from yinggem.common.errors import UserError

ALSO = {("trainer.deterministic", "warn")}  # words that are allowed beside true and false
GROUPS = ("model", "tokenizer", "data", "optimizer", "scheduler", "trainer")  # a run needs every one of them
SEEDS = 1 << 32


def check_kinds(config: dict[str, Any], conf: Path) -> None:
    """Compare the type of every value with those it has in the files of `conf`.

    Raises:
        UserError: a word where a number belongs, and the like; a missing group; an invalid seed.
    """
    for group in GROUPS:
        if not isinstance(config.get(group), dict) or "_target_" not in config[group]:
            choices = ", ".join(sorted(path.stem for path in (conf / group).glob("*.yaml")))
            raise UserError(f"No {group} is chosen; write {group}=NAME with one of {choices}.")
    known = kinds(conf)
    for group in ("callbacks", "logger"):
        for name, value in (config.get(group) or {}).items():
            _check(f"{group}.{name}", {} if value is None else value, {dict})
    for name, value in leaves(config):
        if value is not None and name in known and (name, value if isinstance(value, str) else "") not in ALSO:
            _check(name, value, known[name] - {type(None)})
    check_whole_number("seed", config.get("seed"), 0, SEEDS - 1)


def check_overrides(config: dict[str, Any], overrides: list[str]) -> None:
    """Refuse settings that the command line adds to a callback or logger which the run does not have.

    Raises:
        UserError: there is such a setting. Settings that a file has for it are fine: the part was left out on purpose.
    """
    added = [override.lstrip("+") for override in overrides if override.startswith("+")]
    for group in ("callbacks", "logger"):
        for name, part in (config.get(group) or {}).items():
            if "_target_" not in (part or {}) and any(word.startswith(f"{group}.{name}.") for word in added):
                raise UserError(
                    f"{group}.{name} is not part of this run, so its settings would do nothing; "
                    f"list it in {group}=[...], or leave them out."
                )


def setting_names(conf: Path) -> list[str]:
    """Dotted names of everything that can be overridden, the groups included."""
    groups = {path.parent.name for path in conf.rglob("*.yaml") if path.parent != conf}
    return sorted(groups | {name for name, _ in values(conf)})


def kinds(conf: Path) -> dict[str, set[type]]:
    """Every dotted name in the files of `conf`, with the types its values have there."""
    found: dict[str, set[type]] = {}
    for name, value in values(conf):
        found.setdefault(name, set()).add(type(value))
    return found


def values(conf: Path) -> Iterator[tuple[str, Any]]:
    """Dotted names and values in the files of `conf`, once for every file; unreadable files are left out."""
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the same in C, where PyYAML was built with it
    for path in sorted(conf.rglob("*.yaml")):
        try:
            text = path.read_text(encoding="utf-8")
            tree = yaml.load(text, Loader=loader)
        except (OSError, ValueError, yaml.YAMLError):
            continue
        prefix = "" if path.parent == conf or "@package _global_" in text else f"{path.parent.name}."
        yield from leaves(tree if isinstance(tree, dict) else {}, prefix)


def leaves(tree: dict[Any, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted names and values, those of branches as well; what Hydra reads itself is left out."""
    for key, value in tree.items():
        if str(key).startswith("_") or key in ("defaults", "hydra"):
            continue
        yield f"{prefix}{key}", value
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{key}.")


def _check(name: str, value: Any, kinds: set[type]) -> None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if kinds == {dict}:
        fits, wanted = isinstance(value, dict), f"a group of settings; set one of them as in {name}.NAME=VALUE"
    elif kinds == {bool}:
        fits, wanted = isinstance(value, int), "true or false"
    elif kinds and kinds <= {int, float}:
        fits, wanted = number, "a number"
    elif kinds == {list}:
        fits, wanted = isinstance(value, list), "a list, such as [0.9,0.95]"
    elif kinds == {str}:
        fits, wanted = not isinstance(value, dict | list), "one word or text"
    else:
        return
    if not fits:
        verb = "is" if kinds == {dict} else "must be"
        raise UserError(f"{name} {verb} {wanted}, not {str(value)[:80]!r}.")
