"""The Python of the README and of the notebook runs as it stands."""

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = sorted(path for path in (ROOT / "yinggem").iterdir() if (path / "__init__.py").is_file())

pytestmark = pytest.mark.slow


def test_the_eight_lines_of_the_readme_run(tmp_path, monkeypatch, capsys):
    section = (ROOT / "README.md").read_text(encoding="utf-8").partition("## From Python")[2].partition("\n## ")[0]
    lines = [line.removeprefix("    ") for line in section.splitlines() if line.startswith("    ")]
    assert len(lines) == 8
    monkeypatch.chdir(tmp_path)
    exec("\n".join(lines), {})
    printed = capsys.readouterr().out.splitlines()
    nats, bits_per_byte, *_ = printed[-1].split()
    assert float(nats) > 0 and 0 < float(bits_per_byte) < 20 and "ScoredToken(" in printed[-1]


def test_the_notebook_runs(tmp_path, monkeypatch):
    import matplotlib
    import matplotlib.pyplot as plt

    notebook = json.loads((ROOT / "docs" / "notebook.ipynb").read_text(encoding="utf-8"))
    assert all(not cell["outputs"] for cell in notebook["cells"] if cell["cell_type"] == "code")
    monkeypatch.chdir(tmp_path)
    matplotlib.use("agg")
    plt.close("all")  # what other tests of this process have left open
    names: dict[str, object] = {}
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]), names)
    assert len(plt.get_fignums()) == 3 and all(plt.figure(number).axes[0].has_data() for number in plt.get_fignums())
    plt.close("all")


@pytest.mark.parametrize("room", ROOMS, ids=lambda room: room.name)
def test_the_readme_names_every_file_of_a_room(room):
    tree = (ROOT / "README.md").read_text(encoding="utf-8").partition("## Where things are")[2].partition("\n## ")[0]
    rooms = dict(re.findall(r"^      (\w+)/ (.*?)(?=^      \w|\Z|^\S)", tree, flags=re.S | re.M))
    words = set(re.findall(r"\w+", rooms[room.name]))
    assert {path.stem for path in room.rglob("*.py") if path.stem != "__init__"} - {"make_assets"} <= words
