"""Continuing: which run, from which checkpoint and step, and with which settings."""

import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from yinggem.common.errors import UserError
from yinggem.common.program import typed
from yinggem.runs.layout import (
    CHECKPOINTS,
    LAST,
    OVERRIDES,
    SOURCES,
    SWEEP,
    checkpoint,
    newest_run,
    newest_sweep,
    run_of,
)
from yinggem.runs.record import read_config, read_config_folders, read_overrides

NEEDED = {"global_step": int, "loops": dict, "callbacks": dict, "optimizer_states": list, "lr_schedulers": list}
Compose = Callable[[list[str]], dict[str, Any]]  # words -> the configuration that today's files make of them


@dataclass(frozen=True)
class Resumption:
    """A run that goes on.

    Args:
        folder: of the run.
        checkpoint: where it goes on from; None: it was stopped before the first.
        step: optimizer steps taken then; 0 without a checkpoint.
        validated: whether a validation was due at that step. One that was added at the end of the run does not count.
        overrides: the words it was started with.
        config: the configuration it was started with, whole; None: it is not recorded.
        config_folders: what --config-dir named.
    """

    folder: Path
    checkpoint: Path | None
    step: int
    validated: bool
    overrides: list[str]
    config: dict[str, Any] | None
    config_folders: list[str]


def find_run(wanted: str, outputs: Path) -> tuple[Path, Path | None]:
    """Folder and checkpoint of the run that ckpt_path names: "last", a checkpoint or a run folder.

    Raises:
        UserError: there is none; its record or its checkpoint is damaged.
    """
    if wanted == "last":
        folder, path = newest_run(outputs), None
    else:
        place = Path(wanted).expanduser().resolve()
        if not place.exists():
            raise UserError(f"ckpt_path={wanted} does not exist; name a checkpoint, a run folder, or `last`.")
        folder, path = (place, None) if place.is_dir() else (run_of(place), place)
        if path is None and not (folder / OVERRIDES).is_file() and not checkpoint(folder, LAST):
            raise UserError(
                f"{wanted} is not the folder of a run; name one such as outputs/DATE/TIME, or a checkpoint."
            )
    return folder, path or checkpoint(folder, LAST)


def resumption_of(folder: Path, path: Path | None) -> Resumption:
    """What is recorded in a run folder; UserError as `find_run`, and for a damaged record."""
    step, validated = (0, False) if path is None else step_to_go_on_from(path)
    sources = read_config_folders(folder / SOURCES)
    return Resumption(folder, path, step, validated, read_overrides(folder), read_config(folder), sources)


def step_to_go_on_from(path: Path) -> tuple[int, bool]:
    """The optimizer steps that a checkpoint was taken after, and whether a validation was due then.

    Raises:
        UserError: it is damaged (the sentence names the newest good one of the same run), or not for training.
    """
    from yinggem.inference.checkpoint import read_checkpoint  # brings torch, which most errors can do without

    try:
        state = read_checkpoint(path)
    except UserError as error:
        raise _with_a_better_one(path, error) from None
    if state["yinggem"].get("quantization"):
        raise UserError(f"{path} is quantized, for generating only; continue from the checkpoint it was made from.")
    for name, kind in NEEDED.items():
        if not isinstance(state.get(name), kind) or state[name] == []:
            raise UserError(
                f"{path} cannot be continued from, because its entry {name} is missing or damaged; "
                "use another, such as the last.ckpt of the run."
            )
    step = state["global_step"]
    return step, state.get("validated_step", step) == step  # earlier versions did not record it: all were due


def _with_a_better_one(path: Path, error: UserError) -> UserError:
    """The error, and the newest checkpoint of the same run that is not damaged, or that there is none."""
    from yinggem.inference.checkpoint import read_checkpoint

    for other in sorted(path.parent.glob("*.ckpt"), key=lambda one: one.stat().st_mtime, reverse=True):
        if other == path:
            continue
        try:
            read_checkpoint(other)
        except UserError:
            continue
        return UserError(
            f"{str(error).partition('; use')[0]}; the newest good one of this run is {other}: "
            f"continue from it with `{typed('train')} ckpt_path={shlex.quote(str(other))}`."
        )
    if path.parent.name != CHECKPOINTS:  # a file that lies elsewhere
        return error
    return UserError(f"{str(error).partition('; use')[0]}; no other one of this run is whole, so train it again.")


def continued_config(
    run: Resumption, words: list[str], is_group: Callable[[str], bool], compose: Compose
) -> tuple[dict[str, Any], list[str]]:
    """The recorded configuration with the groups that `words` choose, and the words that are left to be applied to it.

    Choosing a group changes the same settings of the record as of today's configuration: what differs when `compose`
    is called with and without the choice. The words left are single settings. Options newer than the record get a ++.

    Args:
        is_group: whether a name is one of a group of configuration files, such as optimizer.

    Raises:
        UserError: a group is chosen and what the run was started with can no longer be composed.
    """
    config = run.config or {}
    groups = [word for word in words if is_group(name_of(word))]
    if groups:
        before, after = compose(run.overrides), compose([*run.overrides, *words])
        config = merge_difference(config, before, after)
    single = [word for word in words if word not in groups]
    unknown = [word for word in single if word[0] not in "+~" and not _has(config, name_of(word))]
    today = compose(run.overrides) if unknown else {}
    later = {word: f"++{word}" for word in unknown if _has(today, name_of(word))}
    fitting = (later.get(word) or _fitting(word, config, run.overrides) for word in single)
    return config, [word for word in fitting if word]


def name_of(word: str) -> str:
    """The setting or group that a word of Hydra's grammar is about."""
    return word.lstrip("+~").partition("=")[0].partition("@")[0]


def merge_difference(config: dict[str, Any], before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    """`config` with what differs between `before` and `after`; a part whose target changes is taken whole."""
    merged = {name: value for name, value in config.items() if name in after or name not in before}
    for name, value in after.items():
        old: Any = before.get(name)
        kept: Any = merged.get(name)
        parts = isinstance(value, dict) and isinstance(old, dict) and isinstance(kept, dict)
        if parts and value.get("_target_") == old.get("_target_"):
            merged[name] = merge_difference(kept, old, value)
        elif name not in before or value != old:
            merged[name] = value
    return merged


def _fitting(word: str, config: dict[str, Any], earlier: list[str]) -> str:
    """A single setting in the grammar that fits what is recorded: it may have been added or left out already."""
    present = _has(config, name_of(word))
    if word.startswith("~"):
        return "" if word in earlier and not present else word
    return f"+{word}" if word.startswith("+") and not word.startswith("++") and present else word


def _has(config: Any, name: str) -> bool:
    for part in name.split("."):
        if not isinstance(config, dict) or part not in config:
            return False
        config = config[part]
    return True


def find_sweep(wanted: str, outputs: Path) -> tuple[Path, list[str], list[str]]:
    """Folder, words and --config-dir folders of a sweep to continue; "last" is the newest.

    Raises:
        UserError: there is none.
    """
    import yaml

    folder = newest_sweep(outputs) if wanted == "last" else Path(wanted).expanduser()
    try:
        words = yaml.safe_load((folder / SWEEP).read_text(encoding="utf-8"))["hydra"]["overrides"]["task"]
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError):
        raise UserError(f"{folder} is not the folder of a sweep; name the one with {SWEEP} in it.") from None
    kept = [str(word) for word in words if not str(word).startswith("ckpt_path=")]
    return folder.resolve(), kept, read_config_folders(folder / SWEEP)
