"""How a command is typed."""

from pathlib import Path

from yinggem.__main__ import commands
from yinggem.common.program import typed

ROOT = Path(__file__).parents[2]


def test_what_is_named_is_there():
    for command in commands():
        program, name = typed(command).split()
        assert (program == "python" and (ROOT / name).is_file()) or (program, name) == ("yinggem", command)


def test_in_a_checkout_the_files_at_its_top_are_named():
    assert typed("train") == "python train.py" and typed("evaluate") == "yinggem evaluate"
