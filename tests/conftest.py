"""Fixtures shared by all tests."""

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def tinyshakespeare_path() -> Path:
    """Tiny Shakespeare, which is not part of this repository; tests that need it are skipped without it."""
    path = Path(__file__).parents[2] / "shared" / "data" / "tinyshakespeare.txt"
    if not path.is_file():
        pytest.skip(f"{path} is not there")
    return path
