"""Hours of training must not need more memory than minutes: seen from outside, in the process table."""

import statistics
import time
from pathlib import Path

import pytest
from harness import Process

from yinggem.common.files import matches
from yinggem.runs.metrics import read_metrics

pytestmark = pytest.mark.slow


def resident(process: Process) -> int:
    """Bytes of memory the process holds now; 0 when it is over."""
    try:
        status = Path(f"/proc/{process.popen.pid}/status").read_text()
    except OSError:
        return 0
    return next((1024 * int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS")), 0)


def watch(process: Process, progress) -> list[tuple[int, int]]:
    """(progress, resident bytes) every half second until the process ends."""
    seen = []
    while process.status is None:
        if size := resident(process):
            seen.append((progress(), size))
        time.sleep(0.5)
    assert process.status == 0, process.told()
    return seen


def growth(seen: list[tuple[int, int]], early: range, late: range) -> float:
    """By what part the median memory of the late phase is above that of the early one."""
    first, last = ([size for at, size in seen if at in phase] for phase in (early, late))
    assert len(first) >= 3 and len(last) >= 3, seen
    return statistics.median(last) / statistics.median(first) - 1


def test_5000_steps_with_validations_checkpoints_samples_and_curves(place):
    settings = ["trainer.max_steps=5000", "trainer.val_check_interval=100", "callbacks.last.every_n_steps=100",
                "data.context_length=16"]  # fmt: skip
    process = place.start(*place.arguments(*settings), watch=False)

    def step() -> int:
        paths = matches(place.outputs, "*/*/metrics.csv")
        return int(read_metrics(paths[0])[-1]["step"]) if paths else 0

    seen = watch(process, step)
    assert growth(seen, range(500, 1500), range(4000, 5000)) < 0.03, seen


def test_20_jobs_in_one_process(place):
    settings = ["-m", f"seed={','.join(map(str, range(20)))}", "trainer.max_steps=40"]
    process = place.start(*place.arguments(*settings), watch=False)
    seen = watch(process, lambda: len(matches(place.outputs, "*/*/*/result.json")))
    assert len(matches(place.outputs, "*/*/*/result.json")) == 20
    assert growth(seen, range(2, 6), range(16, 20)) < 0.05, seen
