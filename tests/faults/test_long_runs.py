"""Hours of training must not need more memory than minutes: seen from outside, in the process table."""

import statistics
import time
from pathlib import Path

import pytest
from harness import Process
from running import sized

from yinggem.common.files import find_paths
from yinggem.runs.metrics_file import read_metrics

pytestmark = pytest.mark.slow
STEPS, JOBS = sized(400, 5000), sized(10, 20)


def resident(process: Process) -> int:
    """Bytes of memory the process holds now; 0 when it is over."""
    try:
        status = Path(f"/proc/{process.popen.pid}/status").read_text()
    except OSError:
        return 0
    return next((1024 * int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS")), 0)


def watch(process: Process, progress) -> list[tuple[int, int]]:
    """(progress, resident bytes) ten times a second until the process ends."""
    seen = []
    while process.status is None:
        if size := resident(process):
            seen.append((progress(), size))
        time.sleep(0.1)
    assert process.status == 0, process.told()
    return seen


def growth(seen: list[tuple[int, int]], early: range, late: range) -> float:
    """By what part the median memory of the late phase is above that of the early one."""
    first, last = ([size for at, size in seen if at in phase] for phase in (early, late))
    assert len(first) >= 3 and len(last) >= 3, seen
    return statistics.median(last) / statistics.median(first) - 1


def test_many_steps_with_validations_checkpoints_samples_and_curves(place):
    """What is held after a third of them is held at the end."""
    settings = [f"trainer.max_steps={STEPS}", "trainer.val_check_interval=50", "callbacks.last.every_n_steps=50",
                "data.context_length=16"]  # fmt: skip
    process = place.start(*place.arguments(*settings), watch=False)

    def step() -> int:
        paths = find_paths(place.outputs, "*/*/metrics.csv")
        return int(read_metrics(paths[0])[-1]["step"]) if paths else 0

    seen = watch(process, step)
    assert growth(seen, range(STEPS // 10, STEPS * 3 // 10), range(STEPS * 8 // 10, STEPS)) < 0.03, seen


def test_many_jobs_in_one_process(place):
    settings = ["-m", f"seed={','.join(map(str, range(JOBS)))}", "trainer.max_steps=10"]
    process = place.start(*place.arguments(*settings), watch=False)
    seen = watch(process, lambda: len(find_paths(place.outputs, "*/*/*/result.json")))
    assert len(find_paths(place.outputs, "*/*/*/result.json")) == JOBS
    assert growth(seen, range(JOBS // 10, JOBS * 3 // 10), range(JOBS * 8 // 10, JOBS)) < 0.05, seen
