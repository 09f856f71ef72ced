"""Runs side by side."""

import csv
import json

import pytest

from yinggem.compare import compare, find_runs, main
from yinggem.errors import UserError


def make_run(folder, overrides, losses, result=None):
    (folder / ".hydra").mkdir(parents=True)
    (folder / ".hydra" / "overrides.yaml").write_text(json.dumps(overrides))  # JSON is YAML
    rows = "".join(f"{step * 10 - 1},{loss}\n" for step, loss in enumerate(losses, 1))
    (folder / "metrics.csv").write_text("step,val/loss\n" + rows)
    if result:
        (folder / "result.json").write_text(json.dumps(result))


@pytest.fixture
def sweep(tmp_path):
    make_run(tmp_path / "0", ["model=tiny", "seed=1"], [3, 2.5], {"loss": 2.5, "perplexity": 12.2, "steps": 20})
    make_run(tmp_path / "1", ["model=small", "seed=1"], [3, 2.0], {"loss": 2.0, "perplexity": 7.4, "steps": 20})
    make_run(tmp_path / "2", ["model=base", "seed=1"], [2.9])
    make_run(tmp_path / "3", ["model=odd", "seed=1"], [], {"error": "model=odd does not exist."})
    return tmp_path


def test_the_table_is_sorted_by_loss_and_shows_what_differs(sweep, capsys):
    compare([sweep], sweep)
    with open(sweep / "results.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["model"] for row in rows] == ["small", "tiny", "base", "odd"]
    assert [row["state"] for row in rows] == ["finished", "finished", "unfinished", "failed"]
    assert "seed" not in rows[0] and float(rows[0]["val/loss"]) == 2.0
    assert (sweep / "comparison.png").read_bytes().startswith(b"\x89PNG")
    shown = capsys.readouterr().out
    assert shown.index("small") < shown.index("tiny") and "3 failed: model=odd does not exist." in shown


def test_any_set_of_runs_can_be_compared(sweep, tmp_path, capsys):
    main([str(sweep / "0"), str(sweep / "2"), "--output", str(tmp_path)])
    assert "results.csv" in capsys.readouterr().out
    assert [run.folder.name for run in find_runs([sweep / "2", sweep / "0"])] == ["0", "2"]


def test_no_runs_is_one_sentence(tmp_path):
    with pytest.raises(UserError, match="No run was found"):
        find_runs([tmp_path])
