"""Many runs from one command: each on its own, finished ones not repeated, the end a comparison."""

import contextlib
import gc
import math
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from yinggem.common.explain import explain
from yinggem.common.stopping import stop_signal
from yinggem.runs.comparison import compare
from yinggem.runs.lock import only_writer
from yinggem.runs.processes import rank
from yinggem.runs.result import OBJECTIVE, read_result, write_result
from yinggem.search.study import STUDY, Pruned, conclude_search


def attempt(job: Callable[[], float], folder: Path, conf: Path) -> float:
    """Run one job of a sweep: its value, at once if it is finished; infinity if it fails, for the others go on.

    If a launcher's process still runs the job after its launcher is gone, this waits for its end.
    """
    with contextlib.nullcontext() if rank() else only_writer(folder, wait=True):
        result = read_result(folder)
        if "loss" in result or "pruned" in result:
            print(f"Job {folder.name} is {'finished' if 'loss' in result else 'pruned'} already.")
            return float(result.get(OBJECTIVE, math.inf))
        try:
            with on_its_own():
                return job()
        except Pruned as end:
            write_result(folder, {"pruned": end.step})
            print(f"Job {folder.name} is pruned: {end}")
        except Exception as error:
            stop_signal.raise_if_asked(error)  # a library caught the stop, and failed because of what it left half done
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


def conclude(folder: Path) -> int:
    """Compare the runs of a sweep; returns the exit status."""
    runs = compare([folder], folder)
    print(f"Compared in {folder}: results.csv, comparison.png.")
    failed = sum(entry.state == "failed" for entry in runs)
    if (folder / STUDY).exists():
        conclude_search(folder)
        if any(entry.state == "finished" for entry in runs):
            return 0  # a search does not fail because some of its settings are impossible
    if failed:
        print(f"error: {failed} of the jobs failed; the reasons are above.", file=sys.stderr)
    return 2 if failed else 0
