"""The program `yinggem`: every command by its name, and a sentence for everything else."""

import subprocess
import sys
from pathlib import Path

import prefork
import pytest

import yinggem
from yinggem import __main__ as program

ROOT = Path(__file__).parent.parent
EARLIER = ("compare", "evaluate", "quantize", "shard")  # once typed as python -m yinggem.NAME


def test_every_command_is_listed_with_what_it_does(capsys):
    assert program.main(["--help"]) == 0
    out = capsys.readouterr().out
    assert {"generate", "evaluate", "compare", "copies", "quantize", "shard"} <= set(program.commands())
    assert all(f"\n  {name} " in out for name in program.commands())
    assert program.main([]) == 0
    assert capsys.readouterr().out == out


def test_listing_the_commands_loads_none_of_them():
    code = "import sys; from yinggem.__main__ import main; main(['--help']); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = set(done.stdout.splitlines()[-1].split())
    assert not loaded & {"torch", "numpy", "hydra", *(f"yinggem.commands.{name}" for name in program.commands())}


def test_the_version_is_the_package_s(capsys):
    assert program.main(["--version"]) == 0
    assert capsys.readouterr().out == f"yinggem {yinggem.__version__}\n"


@pytest.mark.parametrize("name", ["generat", "train ", "report", "__init__", "../generate", "os", "", "ü", "a\nb"])
def test_what_is_no_command_is_refused_in_one_sentence(name, capsys):
    assert program.main([name]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: There is no command ") and err.count("\n") == 1 and err[-2] in ".?"
    if name == "generat":
        assert "did you mean generate?" in err


@pytest.mark.slow
@pytest.mark.parametrize("name", EARLIER)
def test_an_earlier_name_goes_on_and_says_what_to_type(name, tmp_path):
    done = prefork.run(["-m", f"yinggem.{name}", "--help"], ROOT)
    assert done.returncode == 0 and "usage:" in done.stdout and f"`yinggem {name}`" in done.stderr
