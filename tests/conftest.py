"""Fixtures shared by all tests, and what makes them independent of the machine and of each other."""

import os
import signal
from pathlib import Path

# Several workers share the cores, and so does every process that a test starts: one thread each. Models this small only
# wait for a second thread. Before the first import of torch, which reads it.
os.environ["OMP_NUM_THREADS"] = "1"

import pytest
import torch

from yinggem.common.processors import usable_cores

# Where the tests are started in the background of a shell, or by nohup, they are told to ignore Ctrl-C or SIGHUP, and
# so would be every process that they start and send one.
signal.signal(signal.SIGINT, signal.default_int_handler)
if hasattr(signal, "SIGHUP"):
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_configure() -> None:
    torch.set_num_threads(1)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """What `-n auto` means: three workers for every two cores, for many tests wait for processes to end."""
    return max(1, usable_cores() * 3 // 2)


def pytest_collection_finish() -> None:
    import shortcuts  # noqa: F401 - for its effect


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the heavy peers, unless `-m` names them (their packages need not even be installed), and what only
    `make soak` tries."""
    left_out = {"peers"} - set(config.option.markexpr.split())
    left_out |= set() if os.environ.get("YINGGEM_SOAK") else {"soak"}
    for name in left_out:
        config.hook.pytest_deselected(items=[item for item in items if item.get_closest_marker(name)])
        items[:] = [item for item in items if not item.get_closest_marker(name)]
    items[:] = in_good_order(items, int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", 1)))


def in_good_order(items: list[pytest.Item], workers: int) -> list[pytest.Item]:
    """Every worker's share, which xdist takes from the list in turn, begins with its slow tests: so the last tests of
    all, which one worker runs while the others have nothing left, are short. Files of slow tests are dealt out in turn:
    those of a room, which take about as long, come to different workers."""
    slow = [item for item in items if item.get_closest_marker("slow")]
    fast = [item for item in items if not item.get_closest_marker("slow")]
    files = list(dict.fromkeys(item.path for item in slow))
    shares = [[item for item in slow if files.index(item.path) % workers == k] for k in range(workers)]
    size = -(-len(items) // workers)  # of what xdist gives to each
    for share in shares:
        room = max(0, size - len(share))
        share += fast[:room]
        del fast[:room]
    return [item for share in shares for item in share] + fast


@pytest.fixture(scope="session")
def common_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A temporary folder that all workers of this session share; what is made in it once is made under a lock."""
    folder = tmp_path_factory.getbasetemp()
    return folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder


@pytest.fixture(scope="session", autouse=True)
def cache(common_folder: Path) -> None:
    """No test reads or fills the cache folder of whoever runs the tests, nor what was typed at a terminal."""
    os.environ["YINGGEM_CACHE"] = str(common_folder / "cache")
    os.environ["YINGGEM_HISTORY"] = ""


@pytest.fixture(scope="session")
def tinyshakespeare_path() -> Path:
    """Tiny Shakespeare, which is not part of this repository; tests that need it are skipped without it."""
    path = Path(__file__).parents[2] / "shared" / "data" / "tinyshakespeare.txt"
    if not path.is_file():
        pytest.skip(f"{path} is not there")
    return path
