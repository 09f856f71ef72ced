"""Printing never decides success: whatever the terminal, and whoever reads."""

import os
import subprocess
import sys

import pytest
from running import ROOT

PRINTS = """
import sys
from yinggem.common.command_line import run

def main():
    from rich.console import Console
    from rich.table import Table
    from yinggem.common import progress_bar
    progress_bar.BAR_AFTER_SECONDS = -1.0
    sys.stderr.isatty = lambda: True
    table = Table("┃ step", "… loss")
    table.add_row("1", "ŝ 😀")
    Console().print(table)
    with progress_bar.show_progress("Reading …", 3) as advance:
        advance(1)
    print("─" * 3, "naïve", b"name\\xff.txt".decode(errors="surrogateescape"), "x" * 100_000)
    print("warning …", file=sys.stderr)
    open("done", "w").close()

sys.exit(run(main, keep_going=KEEP_GOING))
"""


def printing(folder, end="", keep_going=True, python="", **environment) -> subprocess.CompletedProcess:
    """Run PRINTS in a shell with `end` after the command; status 0 and no complaint unless something is wrong."""
    (folder / "prints.py").write_text(PRINTS.replace("KEEP_GOING", str(keep_going)), encoding="utf-8")
    (folder / "done").unlink(missing_ok=True)
    return subprocess.run(
        f"set -o pipefail; {sys.executable} {python} prints.py {end}", shell=True, executable="/bin/bash", cwd=folder,
        capture_output=True, timeout=60, env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
    )  # fmt: skip


POSIX = {"LC_ALL": "POSIX", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}


@pytest.mark.parametrize("environment", [
    {"PYTHONIOENCODING": "cp1252"}, {"PYTHONIOENCODING": "ascii:strict"}, {"PYTHONIOENCODING": "cp437:strict"},
    {"PYTHONIOENCODING": "koi8-r"}, {"PYTHONIOENCODING": "utf-8:strict"}, POSIX, POSIX | {"PYTHONUNBUFFERED": "1"},
], ids=str)  # fmt: skip
def test_any_encoding_takes_any_character(tmp_path, environment):
    done = printing(tmp_path, keep_going=False, **environment)
    assert done.returncode == 0 and (tmp_path / "done").exists(), done.stderr
    assert b"Traceback" not in done.stderr and b"x" * 100_000 in done.stdout
    encoding = environment.get("PYTHONIOENCODING", "utf-8").partition(":")[0].replace("ascii", "utf-8")
    assert r"name\udcff.txt" in done.stdout.decode(encoding)  # a name that is no UTF-8 stays legible
    assert "na" in done.stdout.decode(encoding) and ("naïve" in done.stdout.decode(encoding)) == (encoding != "koi8-r")


LOST = [(">/dev/full", ""), (">/dev/full 2>&1", "-u"), ("2>/dev/full", ""), ("<&- >&- 2>&-", ""), (">&-", ""),
        ("| head -c 1", ""), ("| head -c 1", "-u"), ("2>&1 | true", "")]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("end", "python"), LOST)
def test_a_command_that_goes_on_is_not_ended_by_lost_output(tmp_path, end, python):
    done = printing(tmp_path, end, python=python)
    assert done.returncode == 0 and (tmp_path / "done").exists(), done
    assert b"Traceback" not in done.stderr and b"error" not in done.stderr


@pytest.mark.parametrize(("end", "status"), [(">/dev/full", 2), ("| head -c 1", 0), (">&-", 0), ("2>/dev/full", 0)])
def test_a_command_whose_output_is_the_result_says_when_it_is_lost(tmp_path, end, status):
    done = printing(tmp_path, end, keep_going=False)
    assert done.returncode == status and b"Traceback" not in done.stderr, done
    assert (b"error: Cannot write the output" in done.stderr) == (status == 2)


@pytest.mark.parametrize("python", ["", "-u"])
def test_a_warning_is_told_at_once(python):
    code = (
        "import sys\nfrom yinggem.common.streams import make_streams_safe\nmake_streams_safe(keep_going=True)\n"
        "print('a warning', file=sys.stderr)\nsys.stdin.read()"
    )
    command = [sys.executable, *python.split(), "-c", code]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdin and process.stderr
        assert process.stderr.readline() == b"a warning\n"  # it waits for this test meanwhile
        process.stdin.close()


def test_a_slow_reader_that_does_not_block_gets_everything(tmp_path):
    """Some programs leave their end of a pipe or terminal non-blocking, for which print raises BlockingIOError."""
    done = printing(tmp_path, "| (sleep 0.5; cat)", python=(
        "-c 'import os; os.set_blocking(1, False); exec(open(\"prints.py\").read())'"
    ))  # fmt: skip
    assert done.returncode == 0 and b"x" * 100_000 in done.stdout, done.stderr
