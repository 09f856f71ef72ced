"""CONTRIBUTING.md is true: every change it shows is made in a copy of the package, and its commands run."""

import os
import re
import shlex
import shutil
from pathlib import Path
from typing import NamedTuple

import prefork
import pytest
from running import TEXT

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "CONTRIBUTING.md"
YINGGEM = "import sys; from yinggem.__main__ import main; sys.exit(main())"  # as the installed program starts


class Block(NamedTuple):
    """A block of a section: the file it is about, a diff, a new file or commands."""

    place: str
    kind: str
    body: str


def sections() -> dict[str, list[Block]]:
    """The blocks under every heading of the third level; the line before a block names its file."""
    found = {}
    for section in PAGE.read_text(encoding="utf-8").split("\n### ")[1:]:
        title, _, text = section.partition("\n")
        pieces = re.split(r"```(\w+)\n(.*?)```", text.split("\n## ")[0], flags=re.S)
        blocks = []
        for before, kind, body in zip(pieces[0::3], pieces[1::3], pieces[2::3], strict=False):
            named = re.search(r"(?:In|New,) `([^`]+)`:\s*$", before)
            blocks.append(Block(named[1] if named else "", kind, body))
        found[title] = blocks
    return found


def change(path: Path, diff: str) -> None:
    """Apply a diff, whose lines stand in the file once."""
    lines = diff.splitlines(keepends=True)
    before = "".join(line[1:] for line in lines if line[0] in " -")
    after = "".join(line[1:] for line in lines if line[0] in " +")
    text = path.read_text(encoding="utf-8")
    assert text.count(before) == 1, (path, before)
    path.write_text(text.replace(before, after), encoding="utf-8")


def run(command: str, folder: Path, package: Path) -> str:
    """What a command prints, run as by the installed program: the current folder is not on the path by itself."""
    program, *words = shlex.split(command)
    assert program == "yinggem"
    environment = os.environ | {"PYTHONPATH": str(package), "PYTHONSAFEPATH": "1", "COLUMNS": "200"}
    done = prefork.run(["-c", YINGGEM, *words], folder, environment)
    assert done.returncode == 0 and "Traceback" not in done.stderr, (command, done.stdout, done.stderr)
    return " ".join((done.stdout + done.stderr).split())


@pytest.mark.parametrize("title", sections())
def test_the_change_of_a_section_works(title, tmp_path):
    package, folder = tmp_path / "package", tmp_path / "folder"
    for name in ("yinggem", "conf", "hydra_plugins"):
        shutil.copytree(ROOT / name, package / name, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "notes").mkdir(parents=True)
    (folder / "notes" / "times.tex").write_text("% Products\n" + TEXT, encoding="utf-8")
    for other in PREPARED.get(title, ()):
        write_files(sections()[other], package, folder)
    write_files(sections()[title], package, folder)
    for block in sections()[title]:
        if block.kind == "console":
            for command, *lines in (part.splitlines() for part in block.body.split("$ ")[1:]):
                out = run(command, folder, package)
                assert [line for line in lines if " ".join(line.split()) not in out] == [], (command, out)
    assert any(block.kind == "console" for block in sections()[title]), "the change is tried"


PREPARED = {"Configuration of your own": ("An optimizer or a schedule of your own",)}  # sections that build on others


def write_files(blocks: list[Block], package: Path, folder: Path) -> None:
    """Make the changes in the package, and write the files of one's own beside it."""
    for block in blocks:
        path = (package if block.place.startswith("yinggem/") else folder) / block.place
        if block.kind == "diff":
            change(path, block.body)
        elif block.place:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.body, encoding="utf-8")


def test_every_extension_that_is_promised_has_a_section():
    text = " ".join(sections())
    for word in ("activation", "norm", "optimizer", "schedule", "filter", "metric", "callback", "format", "command"):
        assert word in text
