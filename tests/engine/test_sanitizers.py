"""The C of the engine under sanitizers, and on an ARM processor that is emulated: driver.c uses all of it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
ROOT = TESTS.parents[1]
FLAGS = ["-std=c11", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math", "-g", "-pthread"]
WARNINGS = ["-Wall", "-Wextra", "-Wconversion", "-Werror"]
MEMORY = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]

pytestmark = pytest.mark.slow


def compiler(name: str = "gcc") -> str:
    found = shutil.which(name)
    if not found:
        pytest.skip(f"there is no {name} here")
    return found


def build(source: Path, output: Path, *options: str, name: str = "gcc") -> Path:
    """Compile without a single warning; skipped where this compiler has no such sanitizer."""
    paths = ["-I", str(ROOT / "yinggem" / "engine"), str(source), "-o", str(output), "-lm"]
    done = subprocess.run(
        [compiler(name), *FLAGS, *WARNINGS, *options, *paths], capture_output=True, text=True, check=False
    )
    if "cannot find" in done.stderr and "san" in done.stderr:
        pytest.skip("this compiler has no such sanitizer")
    assert done.returncode == 0, done.stderr
    return output


def run(*command: str) -> list[str]:
    """The kernels that the driver tried."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=1800, check=False)
    assert done.returncode == 0 and not done.stderr, done.stdout + done.stderr
    return done.stdout.split()


def test_no_address_is_wrong_and_nothing_is_undefined(tmp_path):
    driver = build(TESTS / "driver.c", tmp_path / "driver", "-O0", *MEMORY)
    assert "plain" in run(str(driver), "1")


@pytest.mark.soak
def test_the_same_with_more_models(tmp_path):
    driver = build(TESTS / "driver.c", tmp_path / "driver", "-O1", *MEMORY)
    assert "plain" in run(str(driver), "12")


@pytest.mark.soak
def test_threads_do_not_race(tmp_path):
    driver = build(TESTS / "driver.c", tmp_path / "driver", "-O1", "-fsanitize=thread")
    assert "plain" in run(str(driver), "3", "4")


@pytest.mark.soak
def test_clang_has_nothing_to_warn_of_and_computes_the_same(tmp_path):
    assert "plain" in run(str(build(TESTS / "driver.c", tmp_path / "driver", "-O2", name="clang")), "4")


@pytest.mark.soak
def test_the_kernels_of_arm_compute_the_same_in_an_emulator(tmp_path):
    emulator = compiler("qemu-aarch64")
    driver = build(TESTS / "driver.c", tmp_path / "driver", "-O2", "-static", name="aarch64-linux-gnu-gcc")
    assert "neon" in run(emulator, str(driver), "2")


@pytest.mark.soak
def test_no_mistake_of_python_code_makes_c_touch_foreign_memory(tmp_path):
    """All of test_engine.py and test_memory.py with a library that watches every address."""
    library = build(
        ROOT / "yinggem" / "engine" / "engine.c", tmp_path / "engine.so", "-O1", "-shared", "-fPIC", *MEMORY
    )
    asked = subprocess.run([compiler(), "-print-file-name=libasan.so"], capture_output=True, text=True, check=True)
    watched = {"LD_PRELOAD": asked.stdout.strip(), "ASAN_OPTIONS": "detect_leaks=0"}
    environment = os.environ | watched | {"YINGGEM_ENGINE_LIBRARY": str(library)}
    tests = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    tests += [str(TESTS / name) for name in ("test_engine.py", "test_memory.py")]
    done = subprocess.run(tests, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=1800, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
