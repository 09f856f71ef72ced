"""Many runs from one command: each on its own, finished ones not repeated, the end a comparison."""

import contextlib
import gc
import json
import math
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock

from yinggem.common.errors import StopRequested, UserError, requested
from yinggem.common.explain import explain
from yinggem.common.files import matches, write_atomically
from yinggem.runs.comparison import RESULT, compare, read_result
from yinggem.runs.resume import SWEEP
from yinggem.search.study import STUDY, Pruned, conclude_search

begun: list[Path] = []  # sweep folders of this process


def attempt(job: Callable[[], float], folder: Path, conf: Path) -> float:
    """Run one job of a sweep: its value, at once if it is finished; infinity if it fails, for the others go on.

    Where the job is still under way in a process of a launcher that is gone, its end is waited for.
    """
    first = all(os.environ.get(name, "0") == "0" for name in ("RANK", "SLURM_PROCID"))  # of the processes of this job
    with FileLock(folder.parent / f".{folder.name}.lock") if first else contextlib.nullcontext():
        result = read_result(folder)
        if "loss" in result or "pruned" in result:
            print(f"Job {folder.name} is {'finished' if 'loss' in result else 'pruned'} already.")
            return float(result.get("loss", math.inf))
        try:
            with on_its_own():
                return job()
        except Pruned as end:
            write_result(folder, {"pruned": end.step})
            print(f"Job {folder.name} is pruned: {end}")
        except Exception as error:
            if requested:  # a library caught the stop, and failed because of what it had not finished
                raise StopRequested(requested[0]) from error
            sentence = explain(error, conf)
            write_result(folder, {"error": sentence})
            print(f"error in job {folder.name}: {sentence}", file=sys.stderr)
        return math.inf


@contextlib.contextmanager
def on_its_own() -> Iterator[None]:
    """Drop what a job leaves in the process: compiled code, global switches, its group of processes, garbage."""
    gc.collect()
    environment = dict(os.environ)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(environment)
        torch = sys.modules.get("torch")
        if torch is not None:
            torch.use_deterministic_algorithms(False)
            torch.compiler.reset()
            if torch.distributed.is_available() and torch.distributed.is_initialized():
                torch.distributed.destroy_process_group()


def write_result(folder: Path, result: dict[str, Any]) -> None:
    """Leave what became of a run in its folder."""
    write_atomically(folder / RESULT, json.dumps(result, indent=1).encode())


def conclude() -> int:
    """Compare the runs of every sweep of this process; returns the exit status."""
    failed = 0
    for folder in begun:
        runs = compare([folder], folder)
        print(f"Compared in {folder}: results.csv, comparison.png.")
        if (folder / STUDY).exists():
            conclude_search(folder)
            if any(entry.state == "finished" for entry in runs):
                continue  # that some settings of a search are impossible is no failure of the search
        failed += sum(entry.state == "failed" for entry in runs)
    if failed:
        print(f"error: {failed} of the jobs failed; the reasons are above.", file=sys.stderr)
    begun.clear()
    return 2 if failed else 0


def old_sweep(wanted: str, outputs: Path) -> tuple[Path, list[str]]:
    """Folder and overrides of a sweep to continue; "last" is the newest.

    Raises:
        UserError: there is none.
    """
    import yaml

    if wanted == "last":
        found = sorted(matches(outputs, f"*/*/{SWEEP}"), key=lambda path: path.stat().st_mtime)
        if not found:
            raise UserError(f"There is no sweep in {outputs}/ to continue; start one with `python train.py -m ...`.")
        folder = found[-1].parent
    else:
        folder = Path(wanted).expanduser()
    try:
        config = yaml.safe_load((folder / SWEEP).read_text(encoding="utf-8"))
        task = config["hydra"]["overrides"]["task"]
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError):
        raise UserError(f"{folder} is not the folder of a sweep; name the one with {SWEEP} in it.") from None
    return folder.resolve(), [str(line) for line in task if not str(line).startswith("ckpt_path=")]
