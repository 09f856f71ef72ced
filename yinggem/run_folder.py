"""Run folders: a new one for every run, the way to the newest, and what is needed to continue in an old one."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from yinggem.errors import UserError
from yinggem.files import write_atomically

OVERRIDES = Path(".hydra", "overrides.yaml")
_claimed: dict[str, str] = {}  # Hydra resolves a folder several times in a process


@dataclass(frozen=True)
class Resumption:
    """A run to continue: its folder, the checkpoint (None: it was stopped before the first), how it was started."""

    folder: Path
    checkpoint: Path | None
    overrides: list[str]


def claim(folder: str) -> str:
    """Create `folder`, or the first of folder-2, folder-3, ... that does not exist yet: never another run's."""
    if folder not in _claimed:
        number, free = 1, folder
        while True:
            try:
                os.makedirs(free)
                break
            except FileExistsError:
                number += 1
                free = f"{folder}-{number}"
            except OSError as error:
                raise UserError(
                    f"Cannot create the run folder {folder} ({error.strerror}); "
                    "choose another place with outputs=FOLDER."
                ) from None
        _claimed[folder] = free
    return _claimed[folder]


def point_latest(outputs: Path, folder: Path) -> None:
    """Let outputs/latest lead to this run: a link, or a text file where the file system has no links."""
    latest, target = outputs / "latest", os.path.relpath(folder, outputs)
    outputs.mkdir(parents=True, exist_ok=True)
    temporary = outputs / f".latest.{os.getpid()}"
    try:
        temporary.unlink(missing_ok=True)
        os.symlink(target, temporary, target_is_directory=True)
        os.replace(temporary, latest)
    except (OSError, NotImplementedError):
        temporary.unlink(missing_ok=True)
        if not latest.is_dir() or latest.is_symlink():
            write_atomically(latest, f"{target}\n".encode())


def newest_run(outputs: Path) -> Path:
    """The folder that outputs/latest leads to, else the newest by name; UserError when there is none."""
    latest = outputs / "latest"
    candidates = [outputs / latest.read_text(encoding="utf-8").strip()] if latest.is_file() else [latest]
    for run in (*candidates, *sorted(outputs.glob("*/*/"), reverse=True)):
        if (run / OVERRIDES).is_file():
            return run.resolve()
    raise UserError(f"There is no run in {outputs}/ to continue; start one with `python train.py`.")


def find_resumption(wanted: str, outputs: Path = Path("outputs")) -> Resumption:
    """Resolve ckpt_path: "last" is the newest run, anything else a checkpoint or a run folder."""
    if wanted == "last":
        folder = newest_run(outputs)
    else:
        path = Path(wanted).expanduser().resolve()
        if not path.exists():
            raise UserError(f"ckpt_path={wanted} does not exist; name a checkpoint, a run folder, or `last`.")
        folder = path if path.is_dir() else path.parent.parent
        if path.is_file():
            return Resumption(folder, path, read_overrides(folder))
    checkpoint = folder / "checkpoints" / "last.ckpt"
    return Resumption(folder, checkpoint if checkpoint.exists() else None, read_overrides(folder))


def read_overrides(folder: Path) -> list[str]:
    """The command line a run was started with, without where it ran and what it continued; [] when unknown."""
    import yaml

    try:
        lines = yaml.safe_load((folder / OVERRIDES).read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return []
    if not isinstance(lines, list):
        return []
    return [line for line in lines if isinstance(line, str) and not line.startswith(("ckpt_path=", "hydra."))]


def record(folder: Path, outputs: Path, overrides: Iterable[str], config: str) -> None:
    """Keep the command line and the configuration of a run in its folder, and let outputs/latest lead to it."""
    import yaml

    kept = list(dict.fromkeys(line for line in overrides if not line.startswith("ckpt_path=")))
    (folder / ".hydra").mkdir(parents=True, exist_ok=True)
    write_atomically(folder / ".hydra" / "config.yaml", config.encode())
    write_atomically(folder / OVERRIDES, yaml.safe_dump(kept).encode())
    point_latest(outputs, folder)
