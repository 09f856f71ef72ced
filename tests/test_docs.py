"""The pages are true: each command of docs/experiments.md and docs/own_text.md runs and prints what is shown; all
others can be typed."""

import os
import re
import runpy
import shlex
import sys
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import prefork
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from running import here, soaked

from yinggem.runs.overrides import quote_text
from yinggem.text.assets import SHAKESPEARE, read_asset

ROOT = Path(__file__).parent.parent
RUN = [ROOT / "docs" / "experiments.md", ROOT / "docs" / "own_text.md"]  # every command of these
PAGES = sorted([ROOT / "README.md", *ROOT.glob("docs/*.md"), *ROOT.glob("CONTRIBUTING.md")])
PROGRAMS = {"python": [], "yinggem": ["-m", "yinggem"]}
EXTRAS = {"Search": "optuna", "Clusters": "submitit", "Streaming": "litdata"}  # what a section needs beyond the package
GROUPS = sorted(path.name for path in (ROOT / "conf").iterdir() if path.is_dir())
SHORT = "data.val_fraction=0.003"  # the end evaluates all of it: seconds for every command
SHORTER = [SHORT, "trainer.max_steps=10", "trainer.val_check_interval=10", "callbacks.samples.max_new_tokens=20"]
Step = tuple[str, list[str]]  # a command and the lines it is shown to print


def sections() -> dict[str, list[Step]]:
    """The commands under every heading; they are indented and begin with `$`, what they print follows at once."""
    found: dict[str, list[Step]] = {}
    title, shown = "", None
    for line in (line for page in RUN for line in page.read_text(encoding="utf-8").splitlines()):
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


def run(command: str, folder: Path, alone: bool) -> str:
    """Run one command as a reader would in the root of a clone, but with its files in `folder`.

    Args:
        alone: in a process of its own, whatever it is; a train.py of one process can do without.
    """
    program, *words = shlex.split(command)
    if words[0] == "train.py" and "experiment=smoke" in words and "data=streaming" not in words:
        words.append(SHORT)
    elif words[0] == "train.py" and "data=text" in words and "experiment=smoke" not in words:
        words += SHORTER  # of docs/own_text.md, whose runs take minutes
    if not alone and words[0] == "train.py" and "trainer.devices=2" not in words and "launcher" not in command:
        done = here(*words[1:])
        assert done.status == 0 and "Traceback" not in done.out + done.err, (command, done)
        return done.out + done.err
    words = [*PROGRAMS[program], *(str(ROOT / word) if word in ("train.py", "generate.py") else word for word in words)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "200"}
    ended = prefork.run(words, folder, environment)
    assert ended.returncode == 0, (command, ended.stdout, ended.stderr)
    assert "Traceback" not in ended.stdout + ended.stderr and "Warning" not in ended.stdout + ended.stderr, ended
    return ended.stdout + ended.stderr


# Sections whose every command other tests try: test_options.py, test_launchers.py, test_distributed.py.
TRIED = {"Debugging", "Precision", "Optimizers and schedules", "TensorBoard", "Loggers", "Clusters", "Several devices",
         "Search"}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("title", soaked(sections(), sections().keys() - TRIED))
def test_the_commands_of_a_section_run_and_print_what_is_shown(title, tmp_path, monkeypatch):
    """The first of every section in a process of its own."""
    if title in EXTRAS:
        pytest.importorskip(EXTRAS[title])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    poems = tmp_path / "poems"
    poems.mkdir()
    (poems / "sonnets.txt").write_bytes(read_asset(SHAKESPEARE)[:200_000])
    for number, (command, lines) in enumerate(sections()[title]):
        out = told(run(command, tmp_path, alone=number == 0).replace(f" {SHORT}", ""))
        for line in lines:
            for part in line.split("..."):
                assert told(part) in out, (command, line, out)


def commands_of(page: Path) -> list[str]:
    """Every indented line of a page that begins with one of our commands, its comment and continuation lines joined."""
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [line.strip().removeprefix("$ ") for line in text.splitlines() if line.startswith("    ")]
    lines = [part.strip() for line in lines for part in line.split("  # ")[0].split(" && ")]
    return [line for line in lines if re.match(r"(python (train|generate)\.py|(python -m )?yinggem) ", line)]


def one_value(setting: str) -> str:
    """A setting as it is typed; of several values, or a range, one."""
    override = OverridesParser.create().parse_override(setting)
    if not override.is_sweep_override():
        return setting
    if override.is_choice_sweep():
        return f"{override.key_or_group}={next(override.sweep_string_iterator())}"
    return f"{override.key_or_group}=1"


TYPED = sorted({command for page in PAGES for command in commands_of(page) if "ckpt_path=" not in command})


@pytest.mark.slow
@pytest.mark.parametrize("command", TYPED)
def test_every_command_of_every_page_can_be_typed(command, tmp_path, monkeypatch):
    """Whether or not it is run above: its settings compose, its options exist."""
    monkeypatch.chdir(tmp_path)
    words = [word for word in shlex.split(command) if "..." not in word and word not in ("python", "-m", "yinggem")]
    if words[0] in ("train.py", "train"):
        settings = [one_value(quote_text(word)) for word in words[1:] if "=" in word or word.startswith("~")]
        done = here(*settings, "--cfg", "job")
        assert done.status == 0 and not done.err and "optimizer:" in done.out, done
    else:
        monkeypatch.setattr(sys, "argv", ["yinggem", words[0].removesuffix(".py"), "--help"])
        with redirect_stdout(StringIO()) as usage, pytest.raises(SystemExit) as ended:
            runpy.run_module("yinggem", run_name="__main__", alter_sys=False)
        assert not ended.value.code
        for option in (word.partition("=")[0] for word in words if word.startswith("--")):
            assert re.search(rf"(?<![\w-]){option}(?![\w-])", usage.getvalue()), (option, usage.getvalue())


def test_every_group_that_can_be_chosen_is_named_on_a_page():
    text = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    assert [group for group in GROUPS if not re.search(rf"\b{group}=", text)] == []


@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "CONTRIBUTING.md"], ids=lambda page: page.name)
def test_every_file_that_a_page_names_is_there(page):
    """CONTRIBUTING.md names files that are to be written; tests/test_contributing.py writes them."""
    text = page.read_text(encoding="utf-8")
    named = re.findall(r"(?<![\w/.-])((?:tests|benchmarks|conf|docs|yinggem|hydra_plugins)/[\w/.-]+\.\w+)", text)
    assert [name for name in named if not (ROOT / name).exists()] == []
