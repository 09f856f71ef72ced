"""Fixtures shared by all tests."""

import signal
from pathlib import Path

import pytest

# Where the tests are started in the background of a shell they are told to ignore Ctrl-C, and so would be every process
# that they start and send one.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def tinyshakespeare_path() -> Path:
    """Tiny Shakespeare, which is not part of this repository; tests that need it are skipped without it."""
    path = Path(__file__).parents[2] / "shared" / "data" / "tinyshakespeare.txt"
    if not path.is_file():
        pytest.skip(f"{path} is not there")
    return path
