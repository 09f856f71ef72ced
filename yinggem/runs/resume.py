"""Run folders: a new one for every run, the way to the newest, and what is needed to continue in an old one."""

import contextlib
import os
import secrets
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from yinggem.common.errors import UserError
from yinggem.common.files import matches, write_atomically
from yinggem.runs.overrides import quoted
from yinggem.runs.processes import agreed, companion, rank

OVERRIDES = Path(".hydra", "overrides.yaml")
SWEEP = "multirun.yaml"  # Hydra writes it into the folder of a sweep
OF_TRAINING = {"global_step": int, "loops": dict, "callbacks": dict, "optimizer_states": list, "lr_schedulers": list}
NOT_OF_A_RUN = ("ckpt_path=", "hydra.", "launcher=", "sweep=")  # settings of what starts it
recorded: list[Path] = []  # run folders of this process, the present one last
_claimed: dict[str, str] = {}  # Hydra resolves a folder several times in a process
_latest_before: dict[Path, str] = {}  # by run folder: where outputs/latest led before
_only_shows = False


def forget_folders(only_shows: bool) -> None:
    """Begin a command: it has claimed nothing yet, and one that trains nothing claims nothing."""
    global _only_shows
    _only_shows = only_shows
    for memory in (_claimed, _latest_before):
        memory.clear()
    recorded.clear()


@dataclass(frozen=True)
class Resumption:
    """A run to continue: its folder, the checkpoint (None: it was stopped before the first), how it was started."""

    folder: Path
    checkpoint: Path | None
    overrides: list[str]


def claim(folder: str) -> str:
    """Create `folder`, or the first of folder-2, folder-3, ... that does not exist yet: never another run's.

    Processes that were started together get the one that the first of them created.
    """
    if _only_shows:
        return folder
    if folder not in _claimed:
        _claimed[folder] = agreed(lambda: _create(folder))
    return _claimed[folder]


def _create(folder: str) -> str:
    number, free = 1, folder
    while True:
        try:
            os.makedirs(free)
            return free
        except FileExistsError:
            number += 1
            free = f"{folder}-{number}"
        except OSError as error:
            raise UserError(
                f"Cannot create the run folder {folder} ({error.strerror}); choose another place with outputs=FOLDER."
            ) from None


def point_latest(outputs: Path, folder: Path) -> None:
    """Let outputs/latest lead to this run: a link, or a text file where the file system has no links."""
    if not folder.resolve().is_relative_to(outputs.resolve()):
        return  # a run from elsewhere is continued here
    latest, target = outputs / "latest", os.path.relpath(folder, outputs)
    outputs.mkdir(parents=True, exist_ok=True)
    temporary = outputs / f".latest.{os.getpid()}-{secrets.token_hex(4)}.partial"
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
    for run in (*candidates, *reversed(matches(outputs, "*/*/"))):
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
        if not (folder / OVERRIDES).is_file() and not (folder / "checkpoints" / "last.ckpt").is_file():
            raise UserError(
                f"{wanted} is not the folder of a run; name one such as outputs/DATE/TIME, or a checkpoint."
            )
    checkpoint = folder / "checkpoints" / "last.ckpt"
    return Resumption(folder, checkpoint if checkpoint.exists() else None, read_overrides(folder))


def beginning(wanted: str | None, folder: Path) -> tuple[str | None, int]:
    """The checkpoint that a run goes on from and the step it was taken after; (None, -1) for a new run.

    Args:
        wanted: a file; or "auto" in a sweep that is continued, where this job may have been stopped or not begun.
    """
    last = folder / "checkpoints" / "last.ckpt"
    if wanted is None or (wanted == "auto" and not last.exists()):
        return None, -1
    from yinggem.inference.checkpoint import read_checkpoint  # brings torch, which --cfg and many errors can do without

    path = str(last) if wanted == "auto" else wanted
    checkpoint = read_checkpoint(path)
    if checkpoint["yinggem"].get("quantization"):
        raise UserError(f"{path} is quantized, for generating only; continue from the checkpoint it was made from.")
    for name, kind in OF_TRAINING.items():
        if not isinstance(checkpoint.get(name), kind) or checkpoint[name] == []:
            raise UserError(
                f"{path} is not one to continue from, for its {name} are missing or damaged; "
                "use another, such as the last.ckpt of the run."
            )
    return path, checkpoint["global_step"]


def read_overrides(folder: Path) -> list[str]:
    """The command line a run was started with, without where it ran and what it continued; [] when unknown.

    Raises:
        UserError: it was not written whole: the run was killed in its first moment.
    """
    import yaml

    try:
        lines = yaml.safe_load((folder / OVERRIDES).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return []
    except (OSError, ValueError, yaml.YAMLError):
        lines = None
    if not isinstance(lines, list):
        raise UserError(
            f"{folder / OVERRIDES} is damaged, so how this run was started is unknown; start it again, "
            "or name its checkpoint in another folder with all the overrides."
        )
    return [line for line in lines if isinstance(line, str) and not line.startswith(NOT_OF_A_RUN)]


def record(
    folder: Path, outputs: Path, overrides: Iterable[str], config: str, script: Path, checkpoint: str | None
) -> None:
    """Keep the command line and the configuration of a run in its folder, and let outputs/latest lead to it.

    Args:
        script, checkpoint: what other processes of this run, if it starts some, run and continue.
    """
    import yaml

    recorded.append(folder)
    kept = unrepeated([line for line in overrides if not line.startswith("ckpt_path=")])
    flags = [word for word in sys.argv[1:] if word.startswith("-") and word not in ("-m", "--multirun")]
    place = [f"hydra.run.dir={quoted(folder)}", "hydra.output_subdir=null"]
    start = [f"ckpt_path={quoted(checkpoint)}"] if checkpoint else []
    own = [line for line in kept if not line.startswith(NOT_OF_A_RUN)]
    companion[:] = [sys.executable, str(script), *flags, *own, *place, *start]
    if rank():
        return
    (folder / ".hydra").mkdir(parents=True, exist_ok=True)
    write_atomically(folder / ".hydra" / "config.yaml", config.encode())
    write_atomically(folder / OVERRIDES, yaml.safe_dump(kept).encode())
    _latest_before.setdefault(folder.resolve(), _led_to(outputs / "latest"))
    point_latest(outputs, folder)


def unrepeated(settings: list[str]) -> list[str]:
    """Every setting once, where it stands last: later ones win, and Hydra refuses to leave out a thing twice."""
    return list(dict.fromkeys(reversed(settings)))[::-1]


def withdraw() -> None:
    """Undo the folder of a run that failed before it began, and let outputs/latest lead where it led before."""
    for folder in map(Path, () if rank() else _claimed.values()):
        if {path.name for path in _entries(folder)} - {".hydra", SWEEP}:
            continue
        for path in (folder / SWEEP, *_entries(folder / ".hydra")):
            path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            if (folder / ".hydra").is_dir():
                (folder / ".hydra").rmdir()
            folder.rmdir()
            folder.parent.rmdir()  # the day's, if this was its only run
        outputs, before = folder.parent.parent, _latest_before.get(folder.resolve())
        if before:
            point_latest(outputs, outputs / before)
        elif before is not None:
            (outputs / "latest").unlink(missing_ok=True)


def _entries(folder: Path) -> list[Path]:
    return list(folder.iterdir()) if folder.is_dir() else []


def _led_to(latest: Path) -> str:
    """Where outputs/latest leads now, relative to outputs; empty when nowhere."""
    try:
        return os.readlink(latest) if latest.is_symlink() else latest.read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        return ""
