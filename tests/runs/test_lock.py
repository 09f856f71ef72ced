"""A run folder has one writer at a time, and a lock dies with the process that holds it."""

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from yinggem.common.errors import UserError
from yinggem.runs import lock
from yinggem.runs.lock import only_writer

HOLD = """
import os, sys, time
from pathlib import Path
from yinggem.runs.lock import only_writer
with only_writer(Path(sys.argv[1])):
    if len(sys.argv) > 2 and os.fork() == 0:
        os.close(1)
        time.sleep(60)  # a process of a data loader that outlives its run
    print(os.getpid(), flush=True)
    time.sleep(60)
"""


def holder(run: Path, *more: str) -> subprocess.Popen:
    """Another process that holds the lock of `run` by now."""
    command = [sys.executable, "-c", HOLD, str(run), *more]
    process = subprocess.Popen(
        command, cwd=Path(__file__).parents[2], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdout is not None and process.stdout.readline().strip() == str(process.pid)
    return process


@pytest.mark.parametrize(
    "more", [[], pytest.param(["fork"], marks=pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork"))]
)
def test_a_second_writer_is_refused_until_the_first_is_dead(tmp_path, monkeypatch, more):
    monkeypatch.setattr(lock, "PATIENCE", 0.1)
    with holder(tmp_path, *more) as process:
        try:
            with pytest.raises(UserError, match="Another process is writing") as caught, only_writer(tmp_path):
                pass
            assert str(tmp_path) in str(caught.value)
            process.kill()
            process.wait()
            with only_writer(tmp_path, wait=True):
                pass
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def test_writers_one_after_the_other_and_in_two_folders(tmp_path):
    for _ in range(2):
        with only_writer(tmp_path / "one"), only_writer(tmp_path / "two"):
            pass
    with pytest.raises(RuntimeError, match="inside"), only_writer(tmp_path / "one"):
        raise RuntimeError("inside")
    with only_writer(tmp_path / "one"):
        pass
