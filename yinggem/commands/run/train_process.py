"""The process of a training command: its environment, that of the processes it starts, and what it says on failure."""

import contextlib
import os
import shlex
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path

from yinggem.common.errors import UserError
from yinggem.common.explain import causes, explain
from yinggem.common.program import typed
from yinggem.common.stopping import StopRequested
from yinggem.runs.layout import SWEEP
from yinggem.runs.overrides import quoted
from yinggem.runs.processes import ProcessGroup, rank, tell_parent
from yinggem.runs.record import OF_THE_START
from yinggem.runs.resume import Resumption

PLACE = Path(__file__).parents[3]  # where the package and Hydra's plugins are imported from


class Failed(BaseException):
    """Carries an error, its cause, past Hydra, which would print a line of its own about an Exception."""


def cause_of(failure: BaseException) -> BaseException:
    """The error itself, without what carries it."""
    return failure.__cause__ if isinstance(failure, Failed) and failure.__cause__ else failure


def refuse(error: BaseException, conf: Path, processes: ProcessGroup, saved: Path | None, begun: bool) -> None:
    """Print what is wrong, in the one process of a run that prints.

    Args:
        saved: what the run could be continued from.
        begun: whether the run had begun; before that, the first process meets the same error.
    """
    if any(os.environ.get(name, "0") not in ("", "0") for name in ("HYDRA_FULL_ERROR", "YINGGEM_TRACEBACK")):
        traceback.print_exception(error)
    system = any(isinstance(part, OSError) for cause in causes(error) for part in (cause, cause.__context__))
    hint = how_to_continue(saved) if system else ""  # the disk, most likely: with room on it the run can go on
    sentence = f"{explain(error, conf)}{hint}"
    if not any(isinstance(cause, UserError) for cause in causes(error, suppressed=True)):
        sentence = processes.failure() or sentence  # a connection was lost, because another process had failed
    if not rank():
        print(f"error: {sentence}", file=sys.stderr)
    elif not tell_parent(sentence) and begun:
        print(f"error in process {rank()}: {sentence}", file=sys.stderr)


def how_to_continue(checkpoint: Path | None, sweep: Path | None = None) -> str:
    """The command that takes up a stopped sweep or run; empty where there is nothing to take up."""
    if sweep and (sweep / SWEEP).is_file():
        return f" Continue the sweep with: {typed('train')} -m ckpt_path={shlex.quote(str(sweep))}"
    return f" Continue with: {typed('train')} ckpt_path={shlex.quote(str(checkpoint))}" if checkpoint else ""


def say_stopped(stop: StopRequested, saved: Path | None, sweep: Path | None) -> None:
    """Say after which step a run was stopped, and the command that continues it."""
    if not rank():
        where = "." if stop.step is None else f" after step {stop.step:,}."
        hint = how_to_continue(stop.path or saved, sweep)
        print(f"\nStopped{where if hint else ' before there was anything to save.'}{hint}", file=sys.stderr)


def command_of_another(flags: list[str], typed: list[str], folder: Path, run: Resumption | None) -> list[str]:
    """The command of the other processes of a run; the first one has recorded the configuration by then."""
    kept = [flag for flag in flags if flag not in ("-m", "--multirun")]
    own = [word for word in typed if not word.startswith(OF_THE_START)]
    if run and run.checkpoint:
        own.append(f"ckpt_path={quoted(run.checkpoint)}")
    return [sys.executable, "-m", "yinggem", "train", *kept, *own, f"hydra.run.dir={quoted(folder)}"]


@contextlib.contextmanager
def surroundings() -> Iterator[None]:
    """The environment for Hydra and for the processes that a run starts; restored afterwards."""
    argv, environment = sys.argv[:], dict(os.environ)
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra hands errors on instead of printing and leaving
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # messages of torch's C++ are for its authors
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # and so are those of its profiler
    places = [str(PLACE), os.getcwd()]  # plugins and a person's own modules, here and in every job
    sys.path += [place for place in places if place not in sys.path]
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), *places]))
    try:
        yield
    finally:
        sys.argv[:] = argv
        os.environ.clear()
        os.environ.update(environment)
