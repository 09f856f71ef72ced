"""python train.py -m: every job on its own, and all of them taken up again after a stop."""

import contextlib
import csv
import gc
import json
import os
import re
import shlex
import signal
import threading
import time
from pathlib import Path

import pytest
from running import SMALL, TEXT, elsewhere, ended, here, newest, soaked

from yinggem.commands.train import CONF
from yinggem.common.files import find_paths
from yinggem.common.stopping import StopRequested, stop_signal, stopping_on_signals
from yinggem.inference.checkpoint import read_checkpoint
from yinggem.search.sweep import attempt
from yinggem.training.module import LanguageModule

JOBS = [*SMALL, "data.path=own.txt", "~callbacks.samples", "logger=csv", "model.dropout=0.1"]


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.txt").write_text(TEXT)
    return tmp_path


def weights(run: Path) -> list[bytes]:
    state = read_checkpoint(run / "checkpoints" / "last.ckpt")["state_dict"]
    return [value.float().numpy().tobytes() for value in state.values()]


def sweep_folder(place: Path) -> Path:
    (path,) = place.glob("outputs/*/*/multirun.yaml")
    return path.parent


@pytest.mark.slow
def test_a_job_is_what_it_would_be_alone(place):
    """After jobs of another precision, of other algorithms: the same bits, and nothing of them is left in memory."""
    odd = ["trainer.precision=bf16-true,32", "trainer.deterministic=true,false"]
    done = here("-m", *JOBS, *odd, "seed=3")
    assert done.status == 0, done
    assert here(*JOBS, "seed=3", "outputs=alone").status == 0
    sweep = sweep_folder(place)
    assert weights(sweep / "3") == weights(newest("alone")) != weights(sweep / "0")
    gc.collect()
    assert not [found for found in gc.get_objects() if isinstance(found, LanguageModule)]


def test_a_stop_that_a_library_swallowed_ends_the_sweep_and_fails_no_job(tmp_path):
    def job():
        with contextlib.suppress(BaseException):
            os.kill(os.getpid(), signal.SIGTERM)
        raise TypeError("what was left half done")

    assert ended(lambda: attempt(job, tmp_path, CONF)) == 128 + signal.SIGTERM
    assert not (tmp_path / "result.json").exists()


@pytest.mark.slow
def test_a_failing_job_does_not_end_the_others_and_finished_ones_are_not_repeated(place):
    done = here("-m", *JOBS, "model.hidden_size=33,32", "optimizer.lr=0.01,0.02")
    sweep = sweep_folder(place)
    assert done.status == 2 and done.err.count("error in job") == 2 and "2 of the jobs failed" in done.err, done
    with open(sweep / "results.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["state"] for row in rows] == ["finished", "finished", "failed", "failed"]
    assert [float(row["val/loss"]) for row in rows] == sorted(float(row["val/loss"]) for row in rows)
    assert {row["model.hidden_size"] for row in rows[:2]} == {"32"} and (sweep / "comparison.png").exists()
    before = [(sweep / name / "result.json").stat().st_mtime_ns for name in "0123"]
    again = here("-m", "ckpt_path=last")
    after = [(sweep / name / "result.json").stat().st_mtime_ns for name in "0123"]
    assert again.status == 2 and before[2:] == after[2:] and before[0] < after[0] and before[1] < after[1], again
    assert "Job 2 is finished already." in again.out and "Job 3 is finished already." in again.out


@pytest.mark.slow
def test_a_stopped_sweep_goes_on_in_the_middle_of_a_job(place):
    options = [*JOBS, "optimizer.lr=0.01,0.02,0.03", "trainer.max_steps=60", "callbacks.early_stopping.patience=100"]

    def stop() -> None:
        while not find_paths(place, "outputs/*/*/1/checkpoints/last.ckpt"):
            time.sleep(0.002)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=stop, daemon=True).start()
    stopped = here("-m", *options)
    assert stopped.status == 128 + signal.SIGTERM, stopped
    offer = re.search("Continue the sweep with: (.*)", stopped.err)
    assert offer is not None, stopped
    offered = shlex.split(offer[1])
    assert not (sweep_folder(place) / "1" / "result.json").exists() and not (sweep_folder(place) / "2").exists()
    continued = here(*offered[2:])
    assert continued.status == 0 and "Job 0 is finished already." in continued.out, continued
    straight = here(*JOBS, *options[len(JOBS) + 1 :], "optimizer.lr=0.02", "outputs=straight")
    assert straight.status == 0 and weights(newest(place / "straight")) == weights(sweep_folder(place) / "1")
    results = [json.loads((sweep_folder(place) / name / "result.json").read_text()) for name in "012"]
    assert [result["steps"] for result in results] == [60, 60, 60]


def test_a_stop_that_a_library_caught_ends_the_sweep_and_fails_no_job(tmp_path):
    """As where a signal meets an import that is behind an `except BaseException`."""

    def job() -> float:
        with contextlib.suppress(BaseException):
            os.kill(os.getpid(), signal.SIGINT)
        raise TypeError("what was left half done")

    (tmp_path / "0").mkdir()
    with pytest.raises(StopRequested), stopping_on_signals():
        attempt(job, tmp_path / "0", tmp_path)
    assert not (tmp_path / "0" / "result.json").exists() and not stop_signal.signum, (
        "the next run of this process was not asked"
    )


@pytest.mark.slow
@pytest.mark.parametrize("launcher", soaked(["null", "local"], []))
def test_jobs_of_two_processes(place, launcher):
    """Every job starts the other process for itself, and none of them takes part in the whole sweep."""
    two = ["trainer=ddp", "trainer.devices=2", "trainer.strategy=ddp", "data.batch_size=2"]
    done = elsewhere("-m", *JOBS, *two, "seed=0,1", f"launcher={launcher}", cwd=place, OMP_NUM_THREADS="1")
    assert done.status == 0 and "error" not in done.err, done
    sweep = sweep_folder(place)
    assert [json.loads((sweep / name / "result.json").read_text())["steps"] for name in "01"] == [20, 20]
    assert {path.name for path in place.glob("outputs/2*/*")} == {sweep.name}  # not outputs/latest
    straight = elsewhere(*JOBS, *two, "seed=1", "outputs=straight", cwd=place, OMP_NUM_THREADS="1")
    assert straight.status == 0 and weights(newest(place / "straight")) == weights(sweep / "1")
