"""python train.py -m sweep=...: small searches, really run."""

import csv
import json
import math
import re
import shlex
import signal
import sqlite3
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from running import ROOT, SMALL, TEXT, here

from yinggem.common.errors import UserError
from yinggem.common.files import find_paths
from yinggem.search.study import open_study
from yinggem.search.trials import Scale, Search

SEARCH = ["-m", *SMALL, "sweep=search", "optimizer.lr=tag(log,interval(0.0001,0.1))", "data.path=own.txt",
          "trainer.val_check_interval=4", "trainer.max_steps=12", "~callbacks.samples", "~callbacks.loss_curve",
          "logger=csv", "scheduler=constant"]  # fmt: skip


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.txt").write_text(TEXT)
    return tmp_path


def settings_of(folder: Path) -> dict[int, dict[str, float]]:
    """What every trial was, read from the database without Optuna."""
    with sqlite3.connect(folder / "study.db") as database:
        rows = database.execute(
            "select number, param_name, param_value from trials join trial_params using (trial_id) order by number"
        ).fetchall()
    found: dict[int, dict[str, float]] = {}
    for number, name, value in rows:
        found.setdefault(number, {})[name] = value
    return found


def states_of(folder: Path) -> dict[int, str]:
    with sqlite3.connect(folder / "study.db") as database:
        return dict(database.execute("select number, state from trials order by number").fetchall())


def values_of(folder: Path) -> dict[int, float]:
    with sqlite3.connect(folder / "study.db") as database:
        return dict(database.execute("select number, value from trials join trial_values using (trial_id)").fetchall())


def curve_of(folder: Path) -> dict[int, float]:
    """val/bits_per_byte by optimizer steps."""
    with open(folder / "metrics.csv", newline="") as file:
        return {int(row["step"]): float(row["val/bits_per_byte"]) for row in csv.DictReader(file) if row["val/loss"]}


@pytest.mark.slow
def test_a_search_prunes_what_is_worse_than_the_median_and_tells_the_best(place):
    done = here(*SEARCH, "sweep.n_trials=7", "sweep.pruner.startup_trials=2", "sweep.startup_trials=20")
    assert done.status == 0, done
    (folder,) = (path.parent for path in place.glob("outputs/*/*/study.db"))
    states, values = states_of(folder), values_of(folder)
    assert set(states) == set(range(7)) and set(states.values()) == {"COMPLETE", "PRUNED"}, states
    finished: list[int] = []
    for number, state in states.items():
        curve, result = curve_of(folder / str(number)), json.loads((folder / str(number) / "result.json").read_text())
        judged = {}
        for step in sorted(set(curve) - {12}) if len(finished) >= 2 else ():
            median = statistics.median(curve_of(folder / str(other))[step] for other in finished)
            judged[step] = min(value for at, value in curve.items() if at <= step) > median
        if state == "PRUNED":
            assert result == {"pruned": max(curve)} and [step for step, bad in judged.items() if bad] == [max(curve)]
        else:
            assert set(curve) == {4, 8, 12} and not any(judged.values()) and result["bits_per_byte"] == values[number]
            finished.append(number)
    best = min(values, key=lambda number: values[number])
    with open(folder / "results.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert Path(rows[0]["folder"]).name == str(best) and {row["state"] for row in rows} == {"finished", "pruned"}
    for name in ("search_history.png", "search_importance.png", "comparison.png"):
        assert (folder / name).read_bytes().startswith(b"\x89PNG")
    assert f"7 trials: {len(finished)} finished, {7 - len(finished)} pruned." in done.out
    assert not re.search("warning|experimental|deprecat", done.out + done.err, re.IGNORECASE), done
    offered = shlex.split(done.out.splitlines()[-1])
    again = here(*offered[2:], "outputs=again")
    assert again.status == 0 and f"{values[best]:.4f} bits per byte, at step" in again.out, again


@pytest.mark.soak
@pytest.mark.slow
def test_a_killed_search_is_continued_without_a_trial_lost_or_repeated(place):
    """Killed in its third trial; it goes on from its checkpoint, and the proposals are a straight one's."""
    options = [
        *SEARCH,
        "model.num_hidden_layers=1,2",
        "sweep.n_trials=4",
        "sweep.startup_trials=2",
        "sweep.pruner=null",
    ]
    straight = here(*options, "outputs=straight")
    assert straight.status == 0, straight
    (expected,) = (path.parent for path in place.glob("straight/*/*/study.db"))
    process = subprocess.Popen([sys.executable, ROOT / "train.py", *options], stdout=subprocess.DEVNULL)
    while not (begun := find_paths(place, "outputs/*/*/2/checkpoints/last.ckpt")):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    (folder,) = (path.parent for path in place.glob("outputs/*/*/study.db"))
    assert states_of(folder)[2] == "RUNNING" and not (folder / "2" / "result.json").exists()
    before = begun[0].stat().st_mtime_ns
    continued = here("-m", "ckpt_path=last")
    assert continued.status == 0, continued
    assert "Run        " in continued.out and "/0\n" not in continued.out  # the finished ones are not run again
    assert begun[0].stat().st_mtime_ns > before
    assert settings_of(folder) == settings_of(expected) and len(settings_of(folder)) == 4
    assert values_of(folder) == values_of(expected) and set(states_of(folder).values()) == {"COMPLETE"}
    longer = here("-m", f"ckpt_path={folder}", "sweep.n_trials=5")
    assert longer.status == 0 and len(states_of(folder)) == 5, longer
    assert here("-m", "ckpt_path=last", "sweep.n_trials=5").status == 0 and len(states_of(folder)) == 5


@pytest.mark.slow
def test_a_search_goes_on_where_it_was_interrupted_and_draws_the_same(tmp_path):
    """The study alone: stopped with trials under way, at once or in the middle of a batch."""
    space = {"x": Scale(low=0.1, high=10.0, log=True), "kind": Scale(choices=("a", "b")), "n": Scale(low=1, high=9)}

    def run(folder: Path, stops: tuple[int, ...], n_jobs: int = 1) -> dict[int, dict[str, float]]:
        folder.mkdir()
        drawn: dict[int, dict[str, Any]] = {}
        settled, asked = set(), 0
        while True:
            search = Search(folder, space, n_trials=7, n_jobs=n_jobs, seed=3, startup_trials=3, pruner=None)
            while batch := search.next_batch():
                drawn |= {number: values for number, values in batch if drawn.setdefault(number, values) == values}
                asked += 1
                if asked in stops:
                    break
                for number, values in batch:
                    assert number not in settled
                    settled.add(number)
                    search.settle(number, math.log(values["x"]) ** 2 + values["n"])
            else:
                assert settled == set(range(7))
                return settings_of(folder)

    assert run(tmp_path / "straight", ()) == run(tmp_path / "stopped", (1, 5))
    assert run(tmp_path / "batches", (), 3) == run(tmp_path / "stopped batches", (2,), 3)


@pytest.mark.slow
def test_failed_and_lost_trials(tmp_path):
    """A job that failed is a failed trial; one whose process vanished is taken up by the next search, not before."""
    search = Search(tmp_path, {"x": Scale(low=0.0, high=1.0)}, n_trials=3)
    for number, result in enumerate([{"error": "No."}, {"error": "gone", "lost": True}, {"bits_per_byte": 2.5}]):
        assert [asked for asked, _ in search.next_batch()] == [number]
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "result.json").write_text(json.dumps(result))
        search.settle(number, math.inf)
    assert search.next_batch() == [] and states_of(tmp_path) == {0: "FAIL", 1: "RUNNING", 2: "COMPLETE"}
    assert [number for number, _ in Search(tmp_path, search.space, n_trials=3).next_batch()] == [1]


@pytest.mark.slow
@pytest.mark.parametrize(("begun_by", "expected"), [("this version", 3.0), ("an earlier version", 2.0)])
def test_a_study_minimises_one_figure_through_its_life(tmp_path, begun_by, expected):
    """Bits per byte; the loss, where an earlier version began it: a study cannot compare the two."""
    if begun_by == "an earlier version":
        open_study(tmp_path, create=True).ask({"x": Scale(low=0.0, high=1.0).distribution()})
    search = Search(tmp_path, {"x": Scale(low=0.0, high=1.0)}, n_trials=2)
    number = search.next_batch()[0][0]
    (tmp_path / str(number)).mkdir()
    (tmp_path / str(number) / "result.json").write_text(json.dumps({"loss": 2.0, "bits_per_byte": 3.0}))
    search.settle(number, math.inf)
    assert Search(tmp_path, search.space, n_trials=2).study.best_value == expected


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(path.stem for path in (ROOT / "conf" / "sweep").glob("*.yaml")))
def test_every_search_proposes_what_can_be_built(name, place):
    done = here("-m", *SMALL, f"sweep={name}", "data.path=own.txt", "sweep.n_trials=2", "trainer.fast_dev_run=true",
                *(["optimizer.lr=0.01,0.02"] if name == "search" else []))  # fmt: skip
    assert done.status == 0 and "2 trials: 2 finished." in done.out, done


@pytest.mark.slow
@pytest.mark.parametrize(("settings", "words"), [
    (["sweep=adafactor_lr"], "-m"),
    (["launcher=slurm"], "-m"),
    (["-m", "sweep=adafactor_l"], "adafactor_lr"),
    (["-m", "sweep=search"], "nothing to vary"),
    (["-m", "sweep=adafactor_lr", "sweep.n_trials=0"], "sweep.n_trials"),
    (["-m", "sweep=adafactor_lr", "sweep.n_trials=many"], "sweep.n_trials"),
    (["-m", "sweep=adafactor_lr", "sweep.pruner.startup_trials=-1"], "sweep.pruner.startup_trials"),
    (["-m", "sweep=adafactor_lr", "sweep.timeout=soon"], "sweep.timeout"),
    (["-m", "sweep=adafactor_lr", "optimizer=muon", "optimizer.momentumm=interval(0,1)"], "momentum"),
    (["-m", "sweep=adafactor_lr", "optimizer.lr=interval(1,0)"], "optimizer.lr"),
    (["-m", "sweep=adafactor_lr", "optimizer.lr=tag(log,interval(0,1))"], "optimizer.lr"),
    (["-m", "sweep=search", "optimizer.lr=tag(log,range(1,100,10))"], "optimizer.lr"),
    (["-m", "sweep=search", "sweep.space=3"], "sweep.space"),
    (["-m", "sweep.n_trials=3"], "sweep"),
], ids=lambda value: ",".join(value) if isinstance(value, list) else None)  # fmt: skip
def test_bad_searches_are_one_sentence(settings, words, place):
    assert words in here(*settings, "data=text", "data.path=own.txt").refused()
    assert not list(place.glob("outputs/*/*"))


def test_a_scale_that_earlier_trials_do_not_lie_on_is_refused_before_a_trial_is_begun(tmp_path):
    first = Search(tmp_path, {"kind": Scale(choices=("a", "b")), "x": Scale(low=0.0, high=1.0)}, n_trials=2)
    first.next_batch()
    for scale in (Scale(choices=("a", "c")), Scale(low=1, high=2)):
        with pytest.raises(UserError, match="searched kind on another scale"):
            Search(tmp_path, first.space | {"kind": scale})
    moved = Search(tmp_path, first.space | {"x": Scale(low=0.5, high=2.0), "new": Scale(low=1, high=2)}, n_trials=2)
    assert [number for number, _ in moved.next_batch()] == [0] and len(states_of(tmp_path)) == 1


def test_a_missing_optuna_is_one_sentence(place, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    assert "pip install 'yinggem[sweep]'" in here("-m", "sweep=shape").refused()


def test_another_file_is_no_study(tmp_path):
    (tmp_path / "study.db").write_text("no database")
    with pytest.raises(UserError, match=r"study\.db"):
        Search(tmp_path, {"x": Scale(choices=("a",))})
