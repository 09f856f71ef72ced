"""The command line of train.py around Hydra: continuing runs, and errors as sentences."""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from yinggem.errors import StopRequested, UserError
from yinggem.friendly import explain
from yinggem.run_folder import find_resumption
from yinggem.sweep import begun, conclude, old_sweep

INTERRUPTED = 128 + signal.SIGINT


def prepare(arguments: list[str]) -> Callable[[], list[str]]:
    """What Hydra should see of the command line, computed where its errors are caught."""
    return lambda: continued(arguments)


def continued(arguments: list[str]) -> list[str]:
    """With ckpt_path: the old run's overrides, then these, in the old run's folder; otherwise the same arguments.

    Raises:
        UserError: there is nothing to continue.
    """
    wanted = [argument.partition("=")[2] for argument in arguments if argument.startswith("ckpt_path=")]
    if not wanted or wanted[-1] in ("null", ""):
        return arguments
    name = wanted[-1].strip("'\"")
    others = [argument for argument in arguments if not argument.startswith("ckpt_path=")]
    named = [argument.partition("=")[2] for argument in others if argument.startswith("outputs=")]
    outputs = Path(named[-1] if named else "outputs")
    if any(argument in ("-m", "--multirun") for argument in arguments):
        folder, overrides = old_sweep(name, outputs)
        return [*overrides, *others, f"hydra.sweep.dir={quoted(folder)}", "ckpt_path=auto"]
    old = find_resumption(name, outputs)
    place = []
    if old.overrides or old.checkpoint is None or (old.folder / ".hydra").is_dir():
        place = [f"hydra.run.dir={quoted(old.folder)}", "hydra.output_subdir=null"]
    if old.checkpoint is not None:
        check_readable(old.checkpoint)
        place.append(f"ckpt_path={quoted(old.checkpoint)}")
    return [*old.overrides, *others, *place]


def check_readable(checkpoint: Path) -> None:
    """UserError when a checkpoint is damaged; it names the newest good one of the same run."""
    from yinggem.checkpoint import read_checkpoint

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
                f"continue from it with `python train.py ckpt_path={other}`."
            ) from None
        raise


def quoted(path: Path) -> str:
    """A path as a value of Hydra's override grammar."""
    return "'" + str(path).replace("\\", "\\\\").replace("'", "\\'") + "'"


def run(train: Callable[[], Any], arguments: Callable[[], list[str]], conf: Path) -> int:
    """Run the command; errors are one sentence and status 2, a stop names the command that continues."""
    show_traceback = bool(os.environ.get("YINGGEM_TRACEBACK"))
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra hands errors on instead of printing and leaving
    try:
        sys.argv[1:] = arguments()
        train()
        return conclude()
    except KeyboardInterrupt:
        print(f"\nInterrupted before there was anything to save.{how_to_continue(None)}", file=sys.stderr)
        return INTERRUPTED
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else 2
    except StopRequested as stop:
        print(f"\nStopped after step {stop.step:,}.{how_to_continue(stop.path)}", file=sys.stderr)
        return 128 + stop.signum
    except Exception as error:
        if show_traceback:
            raise
        print(f"error: {explain(error, conf)}", file=sys.stderr)
        return 2


def how_to_continue(checkpoint: Path | None) -> str:
    """The command that takes up a stopped sweep or run."""
    if begun:
        return f" Continue the sweep with: python train.py -m ckpt_path={begun[-1]}"
    return f" Continue with: python train.py ckpt_path={checkpoint}" if checkpoint else ""
