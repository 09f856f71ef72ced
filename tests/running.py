"""train.py, in this process or another, on a text small enough to train on in a second."""

import os
import sys
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import prefork
import pytest
import torch

from yinggem.commands.run.train_process import surroundings
from yinggem.commands.train import TrainCommand
from yinggem.common.stopping import stopping_on_signals
from yinggem.runs.layout import read_latest

ROOT = Path(__file__).parent.parent
T = TypeVar("T")
TEXT = "".join(f"{k} times {k} is {k * k}, and half of it {k * k / 2}.\n" for k in range(150))
SMALL = [
    "experiment=smoke", "data=text", "data.context_length=32", "data.batch_size=4", "trainer.accelerator=cpu",
    "callbacks.samples.max_new_tokens=10", "trainer.limit_val_batches=1.0",
]  # fmt: skip


def sized(short: T, long: T) -> T:
    """How often a test tries what may go wrong at random: enough to prove the point, or as long as `make soak` asks."""
    return long if os.environ.get("YINGGEM_SOAK") else short


def soaked(values: Iterable[Any], always: Collection[Any]) -> list[Any]:
    """Parameters of which only some are tried by `make test`, and all by `make soak`."""
    listed = [value if isinstance(value, tuple) else (value,) for value in values]
    marks = [() if (value if len(value) > 1 else value[0]) in always else pytest.mark.soak for value in listed]
    return [pytest.param(*value, marks=mark) for value, mark in zip(listed, marks, strict=True)]


class Done(NamedTuple):
    """How a command ended and what it said."""

    status: int
    out: str
    err: str

    def refused(self) -> str:
        """The one sentence of a command that was refused."""
        assert self.status == 2, self
        assert self.err.startswith("error: ") and self.err.endswith((".\n", "?\n")), self.err
        assert self.err.count("\n") == 1 and "Traceback" not in self.err + self.out, self.err
        return self.err


def newest(outputs: str | Path = "outputs") -> Path:
    """The run that outputs/latest names."""
    run = read_latest(Path(outputs))
    assert run is not None
    return run.resolve()


def here(*arguments: object) -> Done:
    """Run the command in this process, which is left as it was: Lightning keeps the port and the group of processes."""
    out, err, argv, environment, path = StringIO(), StringIO(), sys.argv[:], dict(os.environ), sys.path[:]
    try:
        with redirect_stdout(out), redirect_stderr(err):
            status = TrainCommand().exit_status([str(argument) for argument in arguments])
    finally:
        sys.argv[:], sys.path[:] = argv, path  # the current folder is importable while it runs
        os.environ.clear()
        os.environ.update(environment)
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
    return Done(status, out.getvalue(), err.getvalue())


def ended(job: Callable[[], Any]) -> int:
    """The status of a command that does this in the place of training."""

    class Command(TrainCommand):
        def run(self, arguments: Sequence[str]) -> int:
            with stopping_on_signals(), surroundings():
                job()
            return 0

    return Command().exit_status([])


def elsewhere(*arguments: object, cwd: Path, **environment: str) -> Done:
    """Run the command as a user does, in a process of its own."""
    done = prefork.run([ROOT / "train.py", *arguments], cwd, os.environ | environment)
    return Done(done.returncode, done.stdout, done.stderr)


def same(one: Any, other: Any) -> bool:
    """Equal to the last bit, tensors included."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other
