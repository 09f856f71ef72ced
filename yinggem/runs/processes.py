"""The processes of one run: which of them this is, what they agree on, and that none outlives the others.

Lightning starts the companions of a run on one machine. torchrun, Slurm or a script of one's own may start all of them
instead, on many machines, each with the same command; then the first tells the others which folder is theirs.
"""

import atexit
import contextlib
import itertools
import os
import sys
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any, NoReturn

from yinggem.common.errors import UserError

PARENT, VOICE = "YINGGEM_PARENT", "YINGGEM_VOICE"  # process id, and file descriptor to speak to it
SECONDS = 600  # to wait for the first process, which may still be loading Python from a slow disk
_stores: list[Any] = []  # kept open: the process group will meet at the same place
_questions = itertools.count()
companion: list[str] = []  # the command of the processes that a run starts beside itself
complaints: list[Callable[[], str]] = []  # what ended a companion, asked of its launcher
grouped = threading.Event()  # set where this process has trained in a process group of torch, and be it on its own


def rank() -> int:
    """0 in the one process of a run that writes and speaks."""
    for name in ("RANK", "SLURM_PROCID"):
        if name in os.environ:
            return _number(name)
    return _number("NODE_RANK") + _number("LOCAL_RANK")  # only whether it is 0 matters


def agreed(decide: Callable[[], str]) -> str:
    """What the first of the processes that were started together decides; a process on its own decides itself.

    Raises:
        UserError: the first process cannot be reached.
    """
    place = _meeting_place()
    if place is None:
        return decide()
    from torch.distributed import DistError, TCPStore

    host, port, serves = place
    key = f"yinggem/{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}/{next(_questions)}"
    try:
        if not _stores:
            wait = timedelta(seconds=SECONDS)
            _stores.append(TCPStore(host, port, None, serves, wait, wait_for_workers=False, multi_tenant=True))
        if rank() == 0:
            decision = decide()
            _stores[0].set(key, decision)
            return decision
        return str(_stores[0].get(key).decode())
    except DistError as error:
        raise UserError(
            f"The first process of this run cannot be reached at {host}:{port} ({str(error).splitlines()[0]}); "
            "check MASTER_ADDR and MASTER_PORT, and that it is running."
        ) from None


def _meeting_place() -> tuple[str, int, bool] | None:
    """Host, port, and whether this process serves there; None when nobody was started beside it."""
    names = os.environ
    if "TORCHELASTIC_RUN_ID" in names:
        served = names.get("TORCHELASTIC_USE_AGENT_STORE") == "True"  # by torchrun itself
        return names["MASTER_ADDR"], _number("MASTER_PORT"), rank() == 0 and not served
    interactive = names.get("SLURM_JOB_NAME") in ("bash", "interactive")  # as Lightning has it: srun was not used
    if _number("SLURM_NTASKS") > 1 and "SLURM_PROCID" in names and not interactive:
        from lightning.fabric.plugins.environments import SLURMEnvironment

        slurm = SLURMEnvironment()
        return slurm.main_address, slurm.main_port, rank() == 0
    if all(name in names for name in ("NODE_RANK", "MASTER_ADDR", "MASTER_PORT")) and PARENT not in names:
        return names["MASTER_ADDR"], _number("MASTER_PORT"), rank() == 0
    return None


def _number(name: str) -> int:
    value = os.environ.get(name, "0")
    return int(value) if value.isdecimal() else 0


def complaint() -> str:
    """Why a companion ended this run; empty if none did."""
    return next((found for ask in complaints if (found := ask())), "")


def follow() -> None:
    """In a companion that a run has started: end when that run has ended, however it did."""
    if _number(PARENT):
        threading.Thread(target=_follow, args=(_number(PARENT),), daemon=True).start()


def _follow(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def say(sentence: str) -> bool:
    """Tell the process that started this companion, which speaks for all; False if this is no companion."""
    if VOICE not in os.environ:
        return False
    with contextlib.suppress(OSError):  # it is gone already, and nobody waits for this one's end
        os.write(_number(VOICE), sentence.encode() + b"\n")
    return True


def leave(status: int) -> NoReturn:
    """End this process; where it was `grouped`, without taking the interpreter apart.

    The threads that carry a group's tensors may not have let go of the last ones yet. They need the interpreter for
    it, and abort the process when they find it half gone (https://github.com/pytorch/pytorch/issues/190489).
    """
    if not grouped.is_set():
        sys.exit(status)
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):  # nobody reads it any more
            stream.flush()
    os._exit(status)
