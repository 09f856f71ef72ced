"""Several processes: the same run as one process with the same global batch."""

import subprocess
import sys
from pathlib import Path

import pytest

from yinggem.checkpoint import load_model
from yinggem.metrics import read_metrics

ROOT = Path(__file__).parent.parent
SHAPE = """
    model=tiny tokenizer=byte data=text optimizer=adamw scheduler=constant model.hidden_size=32
    model.num_hidden_layers=2 model.num_attention_heads=2 model.intermediate_size=48 model.attention_window=8
    data.context_length=16 experiment=smoke trainer.val_check_interval=25 trainer.limit_val_batches=1.0
    trainer.log_every_n_steps=1 trainer.accelerator=cpu callbacks.early_stopping.patience=100
""".split()  # noqa: SIM905 - as one types it

pytestmark = pytest.mark.slow


def run(folder, *overrides):
    command = [sys.executable, "train.py", *SHAPE, f"hydra.run.dir={folder}", f"outputs={folder.parent}", *overrides]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done


def curves(folder):
    rows = read_metrics(folder / "metrics.csv")
    return {name: [row[name] for row in rows if name in row] for name in ("train/loss", "val/loss", "grad_norm")}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    path = tmp_path_factory.mktemp("corpus") / "text.txt"
    # 90 % of the characters give 25.x batches an epoch, and a validation split whose windows do not divide by anything
    path.write_text("".join(f"{k} squared is {k * k}, and cubed it is {k**3}.\n" for k in range(1, 113)))
    return f"data.path={path}"


@pytest.fixture(scope="module")
def alone(corpus, tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone") / "run"
    run(folder, corpus, "data.batch_size=8", "trainer.max_steps=50")
    return folder


TWO = ["trainer=ddp", "trainer.devices=2", "trainer.accelerator=cpu", "data.batch_size=4"]


@pytest.fixture(scope="module")
def together(corpus, tmp_path_factory):
    folder = tmp_path_factory.mktemp("together") / "run"
    done = run(folder, corpus, *TWO, "trainer.max_steps=50")
    assert done.stdout.count("Best validation loss") == 1
    return folder


def assert_same_curves(first, second):
    one, two = curves(first), curves(second)
    assert len(one["train/loss"]) == 50 and len(one["val/loss"]) == 2
    for name, values in one.items():
        assert len(values) == len(two[name])
        assert max(abs(a - b) for a, b in zip(values, two[name], strict=True)) < 1e-5, name


def test_two_processes_have_the_loss_curve_of_one(alone, together):
    assert_same_curves(alone, together)


def test_two_processes_leave_one_run_folder(together):
    assert [path.name for path in together.parent.iterdir() if path.is_dir() and not path.is_symlink()] == ["run"]
    assert len(list(together.glob("checkpoints/*.ckpt"))) == 2
    steps = [row["step"] for row in read_metrics(together / "metrics.csv")]
    assert steps == sorted(set(steps)), "every step is logged once"


@pytest.mark.parametrize("devices", [1, 2])
def test_a_run_of_two_processes_continues_on_one_or_two(corpus, alone, tmp_path, devices):
    folder = tmp_path / "run"
    run(folder, corpus, *TWO, "trainer.max_steps=30")
    more = [] if devices == 2 else ["trainer=default", "trainer.devices=1", "data.batch_size=8"]
    command = [sys.executable, "train.py", f"ckpt_path={folder}/checkpoints/last.ckpt", "trainer.max_steps=50", *more]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    load_model(folder / "checkpoints/last.ckpt")
    assert_same_curves(alone, folder)
