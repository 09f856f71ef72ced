"""The command line of train.py around Hydra: continuing runs, and errors as sentences."""

import contextlib
import os
import re
import shlex
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from yinggem.common.errors import StopRequested, UserError, requested
from yinggem.common.explain import causes, explain
from yinggem.runs.overrides import only_shows, quoted, tidy
from yinggem.runs.processes import complaint, follow, rank, say
from yinggem.runs.resume import SWEEP, find_resumption, forget_folders, recorded, unrepeated, withdraw
from yinggem.search.sweep import begun, conclude, old_sweep


class Failed(BaseException):
    """Carries an error, its cause, past Hydra, which would announce an Exception with a line of its own."""


def prepare(arguments: list[str]) -> Callable[[], list[str]]:
    """What Hydra should see of the command line, computed where its errors are caught."""
    return lambda: continued(tidy(arguments))


def continued(arguments: list[str]) -> list[str]:
    """With ckpt_path: the old run's overrides, then these, in the old run's folder; otherwise the same arguments.

    Raises:
        UserError: there is nothing to continue.
    """
    wanted = value_of("ckpt_path", arguments)
    if not wanted or wanted in ("null", "auto"):  # auto: another process of a job of a sweep
        return arguments
    name = unquoted(wanted)
    others = [argument for argument in arguments if not argument.startswith("ckpt_path=")]
    place = value_of("outputs", others)
    outputs = Path("outputs" if place is None else unquoted(place))
    if any(argument in ("-m", "--multirun") for argument in arguments):
        folder, overrides = old_sweep(name, outputs)
        flags = [argument for argument in others if argument.startswith("-")]  # Hydra reads them first
        more = [argument for argument in others if argument not in flags]
        return [*flags, *unrepeated([*overrides, *more]), f"hydra.sweep.dir={quoted(folder)}", "ckpt_path=auto"]
    old = find_resumption(name, outputs)
    where = []
    if old.overrides or old.checkpoint is None or (old.folder / ".hydra").is_dir():
        where = [f"hydra.run.dir={quoted(old.folder)}", "hydra.output_subdir=null"]
    if old.checkpoint is not None:
        check_readable(old.checkpoint)
        where.append(f"ckpt_path={quoted(old.checkpoint)}")
    return [*unrepeated([*old.overrides, *others]), *where]


def value_of(name: str, arguments: list[str]) -> str | None:
    """What the last setting of that name says; None when there is none."""
    values = [argument.partition("=")[2] for argument in arguments if argument.startswith(f"{name}=")]
    return values[-1] if values else None


def check_readable(checkpoint: Path) -> None:
    """UserError when a checkpoint is damaged; it names the newest good one of the same run."""
    from yinggem.inference.checkpoint import read_checkpoint

    try:
        read_checkpoint(checkpoint)
    except UserError as error:
        others = sorted(checkpoint.parent.glob("*.ckpt"), key=lambda path: path.stat().st_mtime, reverse=True)
        for other in others:
            if other == checkpoint:
                continue
            try:
                read_checkpoint(other)
            except UserError:
                continue
            raise UserError(
                f"{str(error).partition('; use')[0]}; the newest good one of this run is {other}: "
                f"continue from it with `python train.py ckpt_path={shlex.quote(str(other))}`."
            ) from None
        raise


def unquoted(value: str) -> str:
    """The inverse of `yinggem.runs.overrides.quoted`, for a value that may be in quotes."""
    if len(value) < 2 or value[0] != value[-1] or value[0] not in "'\"":
        return value
    quote = value[0]
    return re.sub(rf"(\\+)({quote}|$)", lambda found: "\\" * (len(found[1]) // 2) + found[2], value[1:-1])


def run(train: Callable[[], Any], arguments: Callable[[], list[str]], conf: Path) -> int:
    """Run the command; errors are one sentence and status 2, a stop names the command that continues."""
    full, ours = (os.environ.get(name, "") for name in ("HYDRA_FULL_ERROR", "YINGGEM_TRACEBACK"))
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra hands errors on instead of printing and leaving
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # what torch's C++ says is for its authors
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # as is what its profiler says
    try:
        with stopping_on_signals():
            begun.clear()
            follow()
            sys.argv[1:] = arguments()
            if rank():
                sys.argv.append("hydra.output_subdir=null")  # the first process keeps the configuration
            forget_folders(only_shows(sys.argv[1:]))
            train()
            withdraw()  # of trainer.fast_dev_run, which leaves nothing
            return conclude()
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else 2
    except StopRequested as stop:
        where = "." if stop.step is None else f" after step {stop.step:,}."
        hint = how_to_continue(stop.path or last_checkpoint())
        if not rank():
            print(f"\nStopped{where if hint else ' before there was anything to save.'}{hint}", file=sys.stderr)
        return 128 + stop.signum
    except (Exception, Failed) as failure:
        carried = failure.__cause__ if isinstance(failure, Failed) else None
        if any(value not in ("", "0") for value in (full, ours)):
            traceback.print_exception(carried or failure)
        return refuse(carried or failure, conf)
    finally:
        os.environ["HYDRA_FULL_ERROR"] = full


def refuse(error: BaseException, conf: Path) -> int:
    """Say what is wrong, leave no trace of a run that never began, return the exit status."""
    refused = any(isinstance(part, OSError) for cause in causes(error) for part in (cause, cause.__context__))
    saved = last_checkpoint() if refused else None  # the disk, most likely: with room on it the run can go on
    sentence = f"{explain(error, conf)}{how_to_continue(saved) if saved else ''}"
    if not any(isinstance(cause, UserError) for cause in causes(error, suppressed=True)):
        sentence = complaint() or sentence  # a connection was lost, because another process had failed
    if not rank():
        print(f"error: {sentence}", file=sys.stderr)
    elif not say(sentence) and recorded:  # before, what is wrong is wrong in the first process too
        print(f"error in process {rank()}: {sentence}", file=sys.stderr)
    withdraw()
    return 2


@contextlib.contextmanager
def stopping_on_signals() -> Iterator[None]:
    """Ctrl-C and SIGTERM raise StopRequested wherever the program is; a second Ctrl-C ends it without a word."""

    def leave(signum: int, frame: Any) -> None:
        requested.append(signum)
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        raise StopRequested(signum)

    try:
        before = {number: signal.signal(number, leave) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not the main thread: signals are its owner's
        before = {}
    try:
        yield
    except (Exception, Failed) as error:
        if requested:  # a library caught the stop, and failed because of what it had not finished
            raise StopRequested(requested[0]) from error
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        requested.clear()


def last_checkpoint() -> Path | None:
    """What the run of this process could be continued from now."""
    if recorded:
        path = recorded[-1] / "checkpoints" / "last.ckpt"
    else:  # stopped while starting: the checkpoint it was to go on from
        path = Path(unquoted(value_of("ckpt_path", sys.argv[1:]) or ""))
    return path if path.is_file() else None


def how_to_continue(checkpoint: Path | None) -> str:
    """The command that takes up a stopped sweep or run."""
    if begun and (begun[-1] / SWEEP).is_file():
        return f" Continue the sweep with: python train.py -m ckpt_path={shlex.quote(str(begun[-1]))}"
    return f" Continue with: python train.py ckpt_path={shlex.quote(str(checkpoint))}" if checkpoint else ""
