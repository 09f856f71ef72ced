"""Where the compiled engine is, and what is said where it is not."""

import subprocess
import sys
from pathlib import Path

import pytest

from yinggem.engine import library
from yinggem.engine.engine import engine_refusal
from yinggem.model.config import ModelConfig

ROOT = Path(__file__).parents[2]


@pytest.fixture
def fresh():
    library.open_library.cache_clear()
    yield
    library.open_library.cache_clear()


def test_without_a_compiled_file_the_reason_says_what_to_do(fresh, monkeypatch):
    monkeypatch.delenv(library.LIBRARY, raising=False)
    monkeypatch.setattr(library, "EXTENSION_SUFFIXES", [".nothing"])
    assert "install a C compiler" in str(engine_refusal(ModelConfig(10)))


def test_without_a_file_that_can_be_opened_it_is_named(fresh, monkeypatch, tmp_path):
    path = tmp_path / "engine.so"
    path.write_bytes(b"not a library")
    monkeypatch.setenv(library.LIBRARY, str(path))
    assert str(path) in str(engine_refusal(ModelConfig(10)))


@pytest.mark.slow
def test_the_engine_needs_no_torch():
    code = "import sys, yinggem.engine.engine; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
