"""Several processes: the same run as one process with the same global batch."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import prefork
import pytest
import torch
from running import elsewhere, here, newest, sized, soaked

from yinggem.inference.checkpoint import load_model
from yinggem.inference.files.stored_model import read_model
from yinggem.memory.ngram_memory import NgramMemory
from yinggem.runs.metrics_file import read_metrics

ROOT = Path(__file__).parents[2]
SHAPE = """
    model=tiny tokenizer=byte data=text optimizer=adamw scheduler=constant model.hidden_size=32
    model.num_hidden_layers=2 model.num_attention_heads=2 model.intermediate_size=48 model.attention_window=8
    data.context_length=16 experiment=smoke trainer.val_check_interval=25 trainer.limit_val_batches=1.0
    trainer.log_every_n_steps=1 trainer.accelerator=cpu callbacks.early_stopping.patience=100
""".split()  # noqa: SIM905 - as one types it

pytestmark = pytest.mark.slow


def train(*words):
    """One process is this one; two are started as a user does."""
    done = elsewhere(*words, cwd=ROOT) if "trainer.devices=2" in words else here(*words)
    assert done.status == 0, done
    return done


def run(folder, *overrides):
    return train(*SHAPE, f"hydra.run.dir={folder}", f"outputs={folder.parent}", *overrides)


def resume(folder, *overrides):
    return train(f"ckpt_path={folder}/checkpoints/last.ckpt", *overrides)


def curves(folder):
    rows = read_metrics(folder / "metrics.csv")
    return {name: [row[name] for row in rows if name in row] for name in ("train/loss", "val/loss", "grad_norm")}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    path = tmp_path_factory.mktemp("corpus") / "text.txt"
    # What is trained on gives 17.x batches an epoch, and a validation split whose windows do not divide by anything
    path.write_text("".join(f"{k} squared is {k * k}, and cubed it is {k**3}.\n" for k in range(1, 113)))
    return f"data.path={path}"


@pytest.fixture(scope="module")
def alone(corpus, tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone") / "run"
    run(folder, corpus, *MEMORY, "data.batch_size=8", "trainer.max_steps=50")
    return folder


MEMORY = ["memory=ngram", "memory.held_out=0.33"]
TWO = ["trainer=ddp", "trainer.devices=2", "trainer.accelerator=cpu", "data.batch_size=4"]


@pytest.fixture(scope="module")
def together(corpus, tmp_path_factory):
    folder = tmp_path_factory.mktemp("together") / "run"
    probe = f"+callbacks.probe={{_target_:tests.training.mixture_probe.Probe,folder:'{folder}'}}"
    done = run(folder, corpus, *TWO, *MEMORY, probe, "trainer.max_steps=50")
    assert done.out.count("Best validation loss") == 1
    return folder


def assert_same_curves(first, second, losses=1e-5, norms=1e-5):
    """Fifty steps; tolerances in nats and, for the gradient norm, as it is."""
    one, two = curves(first), curves(second)
    assert len(one["train/loss"]) == 50 and len(one["val/loss"]) == 2
    for name, values in one.items():
        assert len(values) == len(two[name])
        limit = norms if name == "grad_norm" else losses
        assert max(abs(a - b) for a, b in zip(values, two[name], strict=True)) < limit, name


def test_two_processes_have_the_loss_curve_of_one(alone, together):
    assert_same_curves(alone, together)


def test_both_processes_mix_with_the_weights_of_the_checkpoint_which_are_those_of_one_process(alone, together):
    one, other = (read_model(folder / "checkpoints/last.ckpt").memory for folder in (alone, together))
    assert one is not None and other is not None and np.array_equal(one.ids, other.ids)
    for rank in (0, 1):
        found = json.loads((together / f"mixtures-{rank}.json").read_text())
        assert found == [other.scoring.to_dict(), other.generating.to_dict()]
    features = np.random.default_rng(0).uniform(0, 5, (50, len(one.scoring.parameters["hidden"])))
    weights = [memory.scoring.weights(features) for memory in (one, other, NgramMemory(one.ids, 256))]
    assert np.abs(weights[0] - weights[1]).max() < 0.01 < np.abs(weights[0] - weights[2]).max()


def test_two_processes_leave_one_run_folder(together):
    assert [path.name for path in together.parent.iterdir() if path.is_dir() and not path.is_symlink()] == ["run"]
    assert len(list(together.glob("checkpoints/*.ckpt"))) == 2
    steps = [row["step"] for row in read_metrics(together / "metrics.csv")]
    assert steps == sorted(set(steps)), "every step is logged once"


@pytest.fixture(scope="module")
def begun(corpus, tmp_path_factory):
    """30 of the 50 steps, on two processes."""
    folder = tmp_path_factory.mktemp("begun") / "run"
    run(folder, corpus, *TWO, *MEMORY, "trainer.max_steps=30")
    return folder


@pytest.mark.parametrize("devices", soaked([1, 2], [1]))
def test_a_run_of_two_processes_continues_on_one_or_two(begun, alone, tmp_path, devices):
    folder = shutil.copytree(begun, tmp_path / "run")
    more = ["trainer.devices=2"] if devices == 2 else ["trainer=default", "trainer.devices=1", "data.batch_size=8"]
    resume(folder, "trainer.max_steps=50", *more)
    load_model(folder / "checkpoints/last.ckpt")
    assert_same_curves(alone, folder)


SHARDED = ["trainer=fsdp", "trainer.devices=2", "trainer.accelerator=cpu", "data.batch_size=4"]


def test_shards_train_as_one_process_does_and_leave_one_plain_checkpoint(corpus, tmp_path):
    """With Adafactor, whose factors and norms are those of whole matrices, and one matrix that is used twice."""
    options = ["optimizer=adafactor", "model.tie_word_embeddings=true", "trainer.precision=32"]
    expected, folder = tmp_path / "alone" / "run", tmp_path / "sharded" / "run"
    run(expected, corpus, *options, "data.batch_size=8", "trainer.max_steps=50")
    run(folder, corpus, *SHARDED, *options, "trainer.max_steps=30")
    path = folder / "checkpoints" / "last.ckpt"
    command = [
        sys.executable,
        "generate.py",
        "--checkpoint",
        str(path),
        "--prompt",
        "7 squared",
        "--max-new-tokens",
        "9",
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0 and done.stdout.startswith("7 squared") and len(done.stdout) > 12, done.stderr
    if sized(0, 1):
        resume(folder, "trainer.max_steps=40", "trainer.devices=2")
    resume(folder, "trainer.max_steps=50", "trainer=default", "trainer.devices=1", "data.batch_size=8")
    assert_same_curves(expected, folder, losses=1e-4, norms=1e-2)


@pytest.mark.soak
def test_bfloat16_shards_with_muon_keep_float32_masters(corpus, tmp_path):
    """Newton-Schulz iterates on whole matrices; what is gathered is bfloat16, what is updated and saved is not."""
    options = ["optimizer=muon", "trainer.max_steps=25"]
    expected, folder = tmp_path / "alone" / "run", tmp_path / "sharded" / "run"
    run(expected, corpus, *options, "data.batch_size=8", "trainer.precision=32")
    run(folder, corpus, *SHARDED, *options, "trainer.precision=bf16-true")
    model, _ = load_model(folder / "checkpoints/last.ckpt")
    assert all(p.dtype == torch.float32 and not torch.equal(p, p.bfloat16().float())
               for name, p in model.named_parameters() if p.ndim == 2)  # fmt: skip
    one, two = curves(expected)["train/loss"], curves(folder)["train/loss"]
    assert one != two and one[0] - one[-1] > 1
    assert max(abs(a - b) for a, b in zip(one, two, strict=True)) < 0.05


class Group:
    """train.py on two processes, in a session of their own that shows whether any is left."""

    def __init__(self, folder, *overrides):
        words = [ROOT / "train.py", *SHAPE, *TWO, f"hydra.run.dir={folder}", f"outputs={folder.parent}", *overrides]
        self.folder, self.said = folder, folder.parent / "said.txt"
        with open(os.devnull, "wb") as out, open(self.said, "wb") as err:
            self.popen = prefork.Forked(words, ROOT, dict(os.environ), out, err, session=True)

    def wait_for_steps(self):
        end = time.monotonic() + 600
        while not read_metrics(self.folder / "metrics.csv") if (self.folder / "metrics.csv").exists() else True:
            assert self.popen.poll() is None and time.monotonic() < end, self.said.read_text()
            time.sleep(0.2)

    def companion(self):
        end = time.monotonic() + 300
        while self.popen.poll() is None and time.monotonic() < end:
            found = subprocess.run(["pgrep", "-P", str(self.popen.pid), "python"], capture_output=True, text=True)
            if found.stdout:
                return int(found.stdout.split()[0])
            time.sleep(0.05)
        raise AssertionError("no companion was started")

    def end(self):
        """Its status and what it said, once all of it is gone."""
        status = self.popen.wait(600)
        end = time.monotonic() + 60
        while time.monotonic() < end:
            left = subprocess.run(["pgrep", "-s", str(self.popen.pid)], capture_output=True, text=True).stdout.split()
            if not left:
                return status, self.said.read_text().strip().splitlines()
            time.sleep(0.2)
        for pid in left:
            os.kill(int(pid), signal.SIGKILL)
        raise AssertionError("a process is left")


FOREVER = ["trainer.max_steps=100000", "trainer.val_check_interval=50", "callbacks.last.every_n_steps=10"]


@pytest.mark.parametrize("number", soaked([signal.SIGTERM, signal.SIGINT], [signal.SIGTERM]))
def test_a_stop_of_one_process_stops_all_after_the_same_step(corpus, tmp_path, number):
    group = Group(tmp_path / "run", corpus, *FOREVER)
    group.wait_for_steps()
    if number == signal.SIGINT:
        os.killpg(group.popen.pid, number)  # as a terminal does
    else:
        group.popen.send_signal(number)
    status, said = group.end()
    assert status == 128 + number, said
    assert [line.split(" after ")[0] for line in said if "after step" in line] == ["Stopped"], said
    assert not any("error" in line for line in said)
    assert load_model(tmp_path / "run/checkpoints/last.ckpt")


def test_ctrl_c_while_the_companion_is_starting_is_not_waited_out(corpus, tmp_path):
    """The first process waits for the other inside of torch then, where Python hears no signal."""
    group = Group(tmp_path / "run", corpus, *FOREVER)
    group.companion()
    time.sleep(2)
    os.killpg(group.popen.pid, signal.SIGINT)
    assert group.end() == (128 + signal.SIGINT, ["Stopped before there was anything to save."])


def test_a_killed_process_ends_the_run_with_one_sentence(corpus, tmp_path):
    group = Group(tmp_path / "run", corpus, *FOREVER)
    group.wait_for_steps()
    os.kill(group.companion(), signal.SIGKILL)
    status, said = group.end()
    assert status == 2 and len(said) == 1, said
    assert said[0].startswith("error: Process 1 of this run was killed by signal 9"), said


def test_no_process_outlives_the_first(corpus, tmp_path):
    group = Group(tmp_path / "run", corpus, *FOREVER)
    group.wait_for_steps()
    group.popen.kill()
    assert group.end() == (-signal.SIGKILL, [])


def test_what_is_wrong_in_all_processes_is_said_once(corpus, tmp_path):
    status, said = Group(tmp_path / "run", corpus, "optimizer.lr=1e30").end()
    assert status == 2 and len(said) == 1 and said[0].startswith("error: The loss is"), said


def test_processes_that_torchrun_starts_share_one_folder(corpus, tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "train.py"]
    done = subprocess.run([*command, *SHAPE, *TWO, corpus, f"outputs={tmp_path}/out", "trainer.max_steps=25"],
                          cwd=ROOT, capture_output=True, text=True, timeout=900)  # fmt: skip
    assert done.returncode == 0 and done.stdout.count("Best validation loss") == 1, done.stderr
    (folder,) = (tmp_path / "out").glob("2*/*/")
    assert newest(tmp_path / "out") == folder.resolve()
    assert [row["step"] for row in read_metrics(folder / "metrics.csv")] == list(range(1, 26))


LEAVING = """
import atexit, ctypes
atexit.register(ctypes.PyDLL(None).sleep, 4)  # the last thing before the interpreter ends, holding its lock
import os, sys, time
import torch, torch.distributed as dist
from yinggem.runs.processes import exit_without_teardown

number, place = int(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", init_method=f"file://{place}", rank=number, world_size=2)
tensor = torch.ones(3)
if number == 1:
    time.sleep(2)
    dist.all_reduce(tensor)
    os._exit(0)
work = dist.all_reduce(tensor, async_op=True)
del work  # the thread that waits for the other process is the last to know of it
atexit.register(print, "at exit")
exit_without_teardown(7)
"""


def test_a_process_ends_whatever_the_threads_of_its_group_still_hold(tmp_path):
    """With sys.exit in its place it aborts: "terminate called without an active exception"."""
    command = [sys.executable, "-c", LEAVING]
    with subprocess.Popen([*command, "1", str(tmp_path / "store")], cwd=ROOT) as other:
        done = subprocess.run([*command, "0", str(tmp_path / "store")], cwd=ROOT, capture_output=True, text=True)
        assert (done.returncode, done.stdout, done.stderr) == (7, "at exit\n", "")
        assert other.wait(60) == 0
