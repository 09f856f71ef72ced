"""What lies where in a run folder, and which run is the newest."""

import os
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

from yinggem.common.errors import UserError
from yinggem.common.files import find_paths, write_atomically
from yinggem.common.program import typed

CONFIG = Path(".hydra", "config.yaml")  # the composed configuration, whole
OVERRIDES = Path(".hydra", "overrides.yaml")  # the settings that were typed
SOURCES = Path(".hydra", "hydra.yaml")  # Hydra's own part, with the folders that configuration came from
LOCK = Path(".hydra", "lock")  # held by the one process that writes here
CHECKPOINTS = "checkpoints"
BEST, LAST = "best.ckpt", "last.ckpt"
METRICS, SAMPLES, LOSS_CURVE, RESULT = "metrics.csv", "samples.txt", "loss_curve.png", "result.json"
SWEEP = "multirun.yaml"  # Hydra writes it into the folder of a sweep
LATEST = "latest"  # in outputs: a text file with the newest run's folder
RUN_NAME = re.compile(r"\d{4}-\d\d-\d\d/\S+")  # as train.yaml names them: DATE/TIME


def checkpoint(run: Path, *names: str) -> Path | None:
    """The first of the named checkpoints that a run has."""
    paths = (run / CHECKPOINTS / name for name in names)
    return next((path for path in paths if path.is_file()), None)


def run_of(checkpoint: Path) -> Path:
    """The folder of the run that wrote a checkpoint, if it lies where it was written."""
    return checkpoint.parent.parent


def newest_first(outputs: Path) -> Iterator[Path]:
    """The folders in `outputs` where runs may be: the one that outputs/latest names, then all, the newest first."""
    latest = read_latest(outputs)
    yield from [latest] if latest else []
    yield from reversed(find_paths(outputs, "*/*/"))


def newest_run(outputs: Path) -> Path:
    """The newest run; UserError when there is none."""
    for run in newest_first(outputs):
        if (run / OVERRIDES).is_file():
            return run.resolve()
    raise UserError(f"There is no run in {outputs}/ to continue; start one with `{typed('train')}`.")


def find_checkpoint(place: str | Path | None = None) -> Path:
    """The checkpoint that is meant by a place: a run's best one, its last one where it has no best.

    Args:
        place: a checkpoint, which need not exist; a run folder; or a folder of runs, of which the newest counts that
            has a checkpoint. None is outputs/.

    Raises:
        UserError: there is none in the folder; the sentence says what to type.
    """
    folder = Path("outputs" if place is None else place)
    if place is not None and not (str(place) and folder.is_dir()):
        return folder
    for run in (folder, *newest_first(folder)):
        if found := checkpoint(run, BEST, LAST):
            return found
    raise UserError(f"No checkpoint was found in {folder}; train one with `{typed('train')}` or name one.")


def find_model(place: str | Path | None = None) -> tuple[Path, str]:
    """The checkpoint that speaks, and a line that says so where it is the one that ships with the package.

    Args:
        place: as `find_checkpoint`, or `starter`; None is the newest run in outputs/, and where there is none the
            starter.

    Raises:
        UserError: as `find_checkpoint`; the starter is damaged.
    """
    from yinggem.inference.starter import STARTER, starter_path  # brings torch, which most errors can do without

    if place == STARTER and not Path(STARTER).exists():
        return starter_path(), ""
    try:
        return find_checkpoint(place), ""
    except UserError:
        if place is not None:
            raise
    said = (
        f"there is no run in outputs/ yet: this is the starter, trained on Shakespeare; `{typed('train')}` trains one."
    )
    return starter_path(), said


def newest_sweep(outputs: Path) -> Path:
    """The folder of the newest sweep; UserError when there is none."""
    found = sorted(find_paths(outputs, f"*/*/{SWEEP}"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise UserError(f"There is no sweep in {outputs}/ to continue; start one with `{typed('train')} -m ...`.")
    return found[-1].parent


def read_latest(outputs: Path) -> Path | None:
    """The run that outputs/latest names, a text file or a link that an earlier version left; else None."""
    latest = outputs / LATEST
    try:
        name = os.readlink(latest) if latest.is_symlink() else latest.read_text(encoding="utf-8").strip()
        run = outputs / name
        return run if name and "\n" not in name and run.is_dir() else None
    except (OSError, ValueError):
        return None


def name_latest(outputs: Path, run: Path) -> None:
    """Let outputs/latest name this run; what is there and is neither our file nor our link stays as it is."""
    if not run.resolve().is_relative_to(outputs.resolve()):
        return  # a run from elsewhere is continued here
    if _may_replace(outputs):
        outputs.mkdir(parents=True, exist_ok=True)
        name = os.fsencode(Path(os.path.relpath(run, outputs)).as_posix())
        write_atomically(outputs / LATEST, name + b"\n")


def forget_latest(outputs: Path) -> None:
    """Let outputs/latest name no run."""
    if _may_replace(outputs):
        (outputs / LATEST).unlink(missing_ok=True)


def _may_replace(outputs: Path) -> bool:
    latest = outputs / LATEST
    if not os.path.lexists(latest) or latest.is_symlink() or read_latest(outputs):
        return True
    try:
        return bool(RUN_NAME.fullmatch(latest.read_text(encoding="utf-8").strip()))  # its run is gone
    except (OSError, ValueError):
        return False


def create_run_folder(wanted: str) -> str:
    """Create the folder `wanted`, or the first of wanted-2, wanted-3, ... that does not exist: never another run's.

    Raises:
        UserError: the system refuses.
    """
    number, free = 1, wanted
    while True:
        try:
            os.makedirs(free)
            return free
        except FileExistsError:
            number += 1
            free = f"{wanted}-{number}"
        except OSError as error:
            raise UserError(
                f"Cannot create the run folder {wanted} ({error.strerror}); choose another place with outputs=FOLDER."
            ) from None


def check_is_new(folder: Path) -> None:
    """Refuse to begin a run in the folder of another, as with hydra.run.dir=FOLDER: its checkpoints would be replaced.

    Raises:
        UserError: there are checkpoints.
    """
    if found := checkpoint(folder, LAST, BEST):
        raise UserError(
            f"{folder} holds a run already; continue it with ckpt_path={shlex.quote(str(found))}, "
            "or choose another folder."
        )
