"""What a run folder keeps of how its run was started: the words typed and the configuration they made, whole."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from yinggem.common.errors import UserError
from yinggem.common.files import write_atomically
from yinggem.runs.layout import CONFIG, OVERRIDES, SOURCES
from yinggem.runs.moved import with_present_names

OF_THE_START = ("ckpt_path=", "hydra.", "launcher=", "sweep=")  # settings of what starts a run, not of the run


def last_of_each(words: Iterable[str]) -> list[str]:
    """Every word once, where it stands last: later ones win, and Hydra refuses to leave out a thing twice."""
    return list(dict.fromkeys(reversed(list(words))))[::-1]


def record_run(run: Path, overrides: Iterable[str], config: str, hydra: str | None = None) -> None:
    """Keep the words and the configuration, as YAML.

    Args:
        hydra: Hydra's own settings, as YAML; None to leave those that are there.

    Raises:
        UserError: the system refuses.
    """
    import yaml

    kept = last_of_each(word for word in overrides if not word.startswith("ckpt_path="))
    (run / OVERRIDES).parent.mkdir(parents=True, exist_ok=True)
    write_atomically(run / CONFIG, _bytes(config))
    if hydra is not None:
        write_atomically(run / SOURCES, _bytes(hydra))
    write_atomically(run / OVERRIDES, yaml.safe_dump(kept).encode())  # last: with it the record is whole


def read_overrides(run: Path) -> list[str]:
    """The settings a run was started with, without where it ran and what it continued; [] when unknown.

    Raises:
        UserError: the file is damaged.
    """
    lines = _read(run / OVERRIDES)
    if lines is None:
        return []
    if not isinstance(lines, list):
        raise UserError(
            f"{run / OVERRIDES} is damaged, so how this run was started is unknown; start it again, "
            "or name its checkpoint in another folder with all the overrides."
        )
    return [line for line in lines if isinstance(line, str) and not line.startswith(OF_THE_START)]


def read_config(run: Path) -> dict[str, Any] | None:
    """The configuration a run was started with, interpolations as they are; None when it is not there.

    Raises:
        UserError: the file is damaged.
    """
    config = _read(run / CONFIG)
    if config is None:
        return None
    if not isinstance(config, dict):
        raise UserError(f"{run / CONFIG} is damaged, so how this run was started is unknown; start it again.")
    config.pop("hydra", None)
    return dict(with_present_names(config))


def read_config_folders(source: Path) -> list[str]:
    """The folders named with --config-dir, as a record of Hydra's own settings tells; [] when there were none."""
    try:
        sources = _read(source)["hydra"]["runtime"]["config_sources"]
        return [str(entry["path"]) for entry in sources if entry["provider"] == "command-line"]
    except (KeyError, TypeError):
        return []


def _bytes(text: str) -> bytes:
    return text.encode(errors="surrogateescape")  # names of files that are not UTF-8


def _read(path: Path) -> Any:
    """What a YAML file holds; None where there is none, an empty string where it cannot be read or holds nothing."""
    import yaml

    try:
        value = yaml.safe_load(path.read_text(encoding="utf-8"))
        return "" if value is None else value
    except FileNotFoundError:
        return None
    except (OSError, ValueError, yaml.YAMLError):
        return ""
