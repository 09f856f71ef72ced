"""docs/experiments.md is true: every command in it runs, and says what the page says it says."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from yinggem.text.assets import SHAKESPEARE, read_asset

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "experiments.md"
PROGRAMS = {
    "python": [sys.executable],
    "torchrun": [sys.executable, "-m", "torch.distributed.run"],
}
EXTRAS = {"Search": "optuna", "Clusters": "submitit", "Streaming": "litdata"}  # what a section needs beyond the package
Step = tuple[str, list[str]]  # a command and the lines it is shown to print

pytestmark = pytest.mark.slow


def sections() -> dict[str, list[Step]]:
    """The commands under every heading; they are indented and begin with `$`, what they print follows at once."""
    found: dict[str, list[Step]] = {}
    title, shown = "", None
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        if line.startswith("## "):
            title = line.removeprefix("## ")
        if line.startswith("    $ "):
            shown = list[str]()
            found.setdefault(title, []).append((line.removeprefix("    $ "), shown))
        elif line.startswith("    ") and shown is not None:
            shown.append(line.strip())
        else:
            shown = None
    return found


def told(text: str) -> str:
    """The text without what differs from run to run: numbers, dates, the width of a table, the folder."""
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)
    text = re.sub(r"-?\d([\d,.:e+-]*\d)?", "#", text)
    return re.sub(r"[\s─━│┃┏┓┗┛┡┩└┘├┤┬┴┼╇┳┻]+", " ", text).strip()


def run(command: str, folder: Path) -> str:
    """Run one command as a reader would in the root of a clone, but with its files in `folder`."""
    program, *words = shlex.split(command)
    words = [*PROGRAMS[program], *(str(ROOT / word) if word in ("train.py", "generate.py") else word for word in words)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    done = subprocess.run(
        words, cwd=folder, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, (command, done.stdout, done.stderr)
    assert "Traceback" not in done.stdout + done.stderr and "Warning" not in done.stdout + done.stderr, done
    return done.stdout + done.stderr


@pytest.mark.parametrize("title", sections())
def test_the_commands_of_a_section_run_and_print_what_is_shown(title, tmp_path):
    if title in EXTRAS:
        pytest.importorskip(EXTRAS[title])
    poems = tmp_path / "poems"
    poems.mkdir()
    (poems / "sonnets.txt").write_bytes(read_asset(SHAKESPEARE)[:200_000])
    for command, lines in sections()[title]:
        out = told(run(command, tmp_path))
        for line in lines:
            for part in line.split("..."):
                assert told(part) in out, (command, line, out)


def test_the_page_has_every_point_of_the_framework():
    assert len(sections()) >= 10
