"""The wheel holds everything: installed where no checkout is, every command works."""

import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path
from typing import NamedTuple

import pytest
from running import SMALL, TEXT

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
SOURCES = ("yinggem", "conf", "hydra_plugins", "pyproject.toml", "setup.py", "README.md", "LICENSE")


class Installation(NamedTuple):
    """A virtual environment with the wheel, and an empty folder to work in."""

    wheel: Path
    programs: Path
    folder: Path

    def run(self, *command: str) -> str:
        """What a command prints; it must succeed. Nothing of the checkout is on the path."""
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        environment |= {"PATH": f"{self.programs}{os.pathsep}{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, cwd=self.folder, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, (command, done.stdout, done.stderr)
        assert "Traceback" not in done.stderr and str(ROOT) not in done.stdout + done.stderr, done
        return done.stdout


@pytest.fixture(scope="module")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Installation:
    """The wheel of these sources in a new environment, which finds other packages where these tests find them."""
    place = tmp_path_factory.mktemp("wheel")
    source, folder, venv = place / "source", place / "folder", place / "venv"
    folder.mkdir()
    for name in SOURCES:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        source.mkdir(exist_ok=True)
        copy(ROOT / name, source / name)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    build = [*pip, "wheel", "--no-deps", "--no-index", "--no-build-isolation", "--wheel-dir", str(place), "."]
    subprocess.run(build, cwd=source, capture_output=True, check=True)
    (wheel,) = place.glob("*.whl")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    scripts = venv / ("Scripts" if os.name == "nt" else "bin")
    ask = [str(scripts / "python"), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    packages = subprocess.run(ask, capture_output=True, text=True, check=True).stdout.strip()
    # Of a folder that a .pth file names, the .pth files are not read: the editable installation stays out.
    Path(packages, "others.pth").write_text(sysconfig.get_path("purelib"), encoding="utf-8")
    install = [*pip, "--python", str(venv), "install", "--no-deps", "--no-index", "--ignore-installed", str(wheel)]
    subprocess.run(install, capture_output=True, check=True)
    (folder / "text.txt").write_text(TEXT, encoding="utf-8")
    return Installation(wheel, scripts, folder)


def of_the_checkout(folder: str, pattern: str) -> set[str]:
    return {path.relative_to(ROOT).as_posix() for path in (ROOT / folder).rglob(pattern)}


def test_the_wheel_holds_every_module_configuration_and_asset(installation):
    names = set(zipfile.ZipFile(installation.wheel).namelist())
    assert of_the_checkout("yinggem", "*.py") <= names
    assert of_the_checkout("yinggem", "*.[ch]") <= names
    assert of_the_checkout("yinggem", "*.xz") | {"yinggem/py.typed", "yinggem/text/assets/starter.ckpt"} <= names
    assert all(of_the_checkout("yinggem", pattern) <= names for pattern in ("*.html", "*.js", "*.css"))
    assert {f"yinggem/{name}" for name in of_the_checkout("conf", "*.yaml")} <= names
    assert of_the_checkout("hydra_plugins", "*.py") <= names
    assert {name.partition("/")[0].partition("-")[0] for name in names} == {"yinggem", "hydra_plugins"}


def test_every_command_works_in_an_empty_folder(installation):
    run = installation.run
    where = run("python", "-c", "import yinggem, os; print(os.path.dirname(yinggem.__file__))").strip()
    assert Path(where).is_relative_to(installation.programs.parent)
    listed = run("yinggem", "--help")
    assert listed == run("python", "-m", "yinggem") and all(f"  {name} " in listed for name in ("train", "generate"))
    assert run("yinggem", "generate", "--prompt", "ROMEO.", "--max-new-tokens", "5").startswith("ROMEO.")  # the starter
    small = [*SMALL, "data.path=text.txt", "trainer.max_steps=2"]
    trained = run("yinggem", "train", *small)
    assert "Everything is in outputs" in trained and "Next:  yinggem generate" in trained and ".py" not in trained
    assert run("yinggem", "generate", "--prompt", "7 times", "--max-new-tokens", "5").startswith("7 times")
    assert ("compiled C" if shutil.which("gcc") else "engine") in run("yinggem", "doctor")
    assert "bits_per_byte" in run("yinggem", "evaluate", "--data", "text.txt")
    assert "results.csv" in run("yinggem", "compare", "outputs")
    run("yinggem", "quantize", "--output", "small.ckpt")
    assert (installation.folder / "small.ckpt").is_file()


@pytest.mark.skipif(importlib.util.find_spec("submitit") is None, reason="needs the extra `cluster`")
def test_a_job_of_a_launcher_and_its_processes_find_the_package(installation):
    small = [*SMALL, "data.path=text.txt", "trainer.max_steps=2", "trainer=ddp", "trainer.devices=2"]
    assert installation.run("yinggem", "train", "-m", *small, "launcher=local").count("finished") == 1
