"""python train.py -m launcher=...: jobs in processes of their own, by submitit, here and by a scheduler's commands."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from running import ROOT, SMALL, TEXT, here, newest, sized

from yinggem.common.files import find_paths
from yinggem.inference.checkpoint import read_checkpoint

JOBS = [*SMALL, "data.path=own.txt", "trainer.max_steps=50", "trainer.val_check_interval=10", "~callbacks.samples",
        "callbacks.early_stopping.patience=100", "logger=csv", "scheduler=constant"]  # fmt: skip
SRUN = """#!/bin/sh
while [ "${1#--}" != "$1" ]; do case "$1" in --output|--error) shift 2;; *) shift;; esac; done
exec "$@"
"""
SBATCH = """#!{python}
# Slurm, as far as it is needed: runs the jobs of an array one after the other, and again those that are put back.
import os, pathlib, re, subprocess, sys
if os.fork():
    print("Submitted batch job 4242")
    sys.exit()
os.setsid()
for stream in (1, 2):
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream)  # who called waits for the end of what we say
here, script = pathlib.Path(__file__).parent, sys.argv[1]
(here / "script.sh").write_text(open(script).read())
found = re.search(r"--array=0-(\\d+)%", open(script).read())
with open(here / "jobs.log", "w") as log:
    for number in range(int(found[1]) + 1 if found else 1):
        job = {{"SLURM_ARRAY_JOB_ID": "4242", "SLURM_ARRAY_TASK_ID": str(number)}} if found else {{}}
        job |= {{"SLURM_JOB_ID": str(4242 + number), "SLURM_NTASKS": "1", "SLURM_JOB_NUM_NODES": "1",
                "SLURM_NODEID": "0", "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_JOB_NAME": "train",
                "SLURM_JOB_NODELIST": "localhost"}}
        again = True
        while again:
            subprocess.run(["bash", script], env=os.environ | job, stdout=log, stderr=log)
            again = (here / "requeued").exists()
            (here / "requeued").unlink(missing_ok=True)
"""
SCONTROL = """#!/bin/sh
echo "$@" >> "$(dirname "$0")/asked"
touch "$(dirname "$0")/requeued"
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    (tmp_path / "own.txt").write_text(TEXT)
    return tmp_path


def weights(run: Path) -> list[bytes]:
    state = read_checkpoint(run / "checkpoints" / "last.ckpt")["state_dict"]
    return [value.numpy().tobytes() for value in state.values()]


def started(place: Path, *arguments: str, **environment: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, ROOT / "train.py", "-m", *arguments],
        cwd=place, env=os.environ | environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def signal_job(place: Path, name: str, number: int, process: subprocess.Popen) -> None:
    """Send a signal to the process of a job, the one that holds its lock, once it has saved its first checkpoint."""
    while not (found := find_paths(place, f"outputs/*/*/{name}/checkpoints/last.ckpt")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.005)
    lock = str(found[0].parents[1] / ".hydra" / "lock")
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdecimal() and lock in map(os.readlink, (entry / "fd").iterdir()):
                os.kill(int(entry.name), number)
                return
    raise AssertionError(f"nobody holds {lock}")


@pytest.mark.soak
@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="looks for processes in /proc")
def test_local_jobs_are_preempted_and_killed_and_end_with_the_same_bits(place):
    """Three jobs at once: one is left alone, one preempted (it is started again by submitit), one killed for good."""
    lrs = ("0.01", "0.02", "0.03")
    process = started(
        place, *JOBS, "launcher=local", "hydra.launcher.array_parallelism=3", f"optimizer.lr={','.join(lrs)}"
    )
    with ThreadPoolExecutor(2) as pool:  # none waits for the other's turn
        for sent in [pool.submit(signal_job, place, name, number, process)
                     for name, number in (("1", signal.SIGUSR2), ("2", signal.SIGKILL))]:  # fmt: skip
            sent.result()
    out, err = process.communicate(timeout=900)
    (sweep,) = (path.parent for path in place.glob("outputs/*/*/multirun.yaml"))
    assert process.returncode == 2 and "error in job 2: Its process ended without a result" in err, (out, err)
    assert [json.loads((sweep / name / "result.json").read_text()).keys() >= {"loss"} for name in "012"] == [
        True,
        True,
        False,
    ]
    assert "Requeued" in "".join(path.read_text() for path in sweep.glob(".submitit/*/*_log.*"))
    times = [(sweep / name / "result.json").stat().st_mtime_ns for name in "01"]
    again = here("-m", "ckpt_path=last", "launcher=null")
    assert again.status == 0 and "Job 0 is finished already." in again.out, again
    assert times == [(sweep / name / "result.json").stat().st_mtime_ns for name in "01"]
    for number, lr in [*enumerate(lrs)][sized(1, 0) :]:  # the first was left alone
        alone = here(*JOBS, f"optimizer.lr={lr}", f"outputs=alone{number}")
        assert alone.status == 0 and weights(newest(place / f"alone{number}")) == weights(sweep / str(number)), number


@pytest.mark.slow
def test_hydras_own_name_of_the_local_launcher_works(place):
    process = started(place, *JOBS, "trainer.max_steps=15", "hydra/launcher=submitit_local", "seed=0")
    out, err = process.communicate(timeout=900)
    assert process.returncode == 0 and err == "" and "finished" in out, (out, err)


@pytest.mark.slow
@pytest.mark.soak
def test_a_search_runs_in_batches(place):
    short = ["trainer.max_steps=15", "launcher=local"]
    searched = here("-m", *JOBS, *short, "sweep=search", "sweep.n_jobs=2", "sweep.n_trials=2",
                    "optimizer.lr=interval(0.01,0.05)", "outputs=searched")  # fmt: skip
    assert searched.status == 0 and "2 trials: 2 finished." in searched.out, searched
    assert searched.out.splitlines()[-1].startswith("python train.py ") and "launcher" not in searched.out


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """A folder with the commands of Slurm that submitit calls."""
    folder = tmp_path / "slurm"
    folder.mkdir()
    for name, text in (("srun", SRUN), ("sbatch", SBATCH.format(python=sys.executable)), ("scontrol", SCONTROL)):
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return folder


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="looks for processes in /proc")
def test_slurm_gets_an_array_with_its_limits_and_a_job_put_back_goes_on(place, slurm):
    process = started(place, *JOBS, "launcher=slurm", "optimizer.lr=0.01,0.02", "hydra.launcher.array_parallelism=1",
                      "hydra.launcher.partition=big", "hydra.launcher.gpus_per_node=0")  # fmt: skip
    signal_job(place, "0", signal.SIGUSR2, process)
    out, err = process.communicate(timeout=900)
    assert process.returncode == 0, (out, err, (slurm / "jobs.log").read_text())
    assert (slurm / "asked").read_text() == "requeue 4242_0\n"
    script = (slurm / "script.sh").read_text()
    for line in ("--array=0-1%1", "--partition=big", "--time=720", "--mem=32GB", "--cpus-per-task=8", "--requeue",
                 "--signal=USR2@120", "--open-mode=append", "--ntasks-per-node=1"):  # fmt: skip
        assert f"#SBATCH {line}\n" in script, (line, script)
    (sweep,) = (path.parent for path in place.glob("outputs/*/*/multirun.yaml"))
    for number, lr in enumerate(("0.01", "0.02")):
        alone = here(*JOBS, f"optimizer.lr={lr}", f"outputs=alone{number}")
        assert alone.status == 0 and weights(newest(place / f"alone{number}")) == weights(sweep / str(number)), number


@pytest.mark.slow
def test_where_there_is_no_slurm_it_is_said(place, monkeypatch):
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent))
    assert "srun" in here("-m", *JOBS, "launcher=slurm", "seed=0,1").refused()
