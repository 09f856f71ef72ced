"""What can be switched on from the command line: trackers, checkpoints, searches, profilers, debug modes."""

import importlib.util
import json
import math

import pytest
import torch
from running import SMALL, TEXT, here, newest, same

from yinggem.inference.checkpoint import read_checkpoint
from yinggem.runs.metrics_file import STEP, depends_on_machine, read_metrics
from yinggem.training.module import LanguageModule

pytestmark = pytest.mark.slow


@pytest.fixture
def place(tmp_path, monkeypatch):
    (tmp_path / "own.txt").write_text(TEXT)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def ran(*arguments):
    """The run folder of a command that went well and complained of nothing, and what it said."""
    small = [word for word in SMALL if not (word.startswith("callbacks.") and "~callbacks" in arguments)]
    done = here(*small, "data.path=own.txt", *arguments)
    assert done.status == 0 and not done.err, done
    return newest(), done.out


def figures(folder, name):
    return [row[name] for row in read_metrics(folder / "metrics.csv") if name in row]


def resumed(folder):
    done = here(f"ckpt_path={folder}", "trainer.max_steps=25")
    assert done.status == 0 and not done.err, done


def test_wandb_offline_keeps_everything_and_is_one_run_when_continued(place, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    folder, said = ran("logger=[csv,wandb]")
    resumed(folder)
    runs = sorted(path.name for path in (folder / "wandb").glob("offline-run-*"))
    assert len(runs) == 2 and len({name.rpartition("-")[2] for name in runs}) == 1, runs
    files = [next((folder / "wandb" / name).glob("*.wandb")).read_bytes() for name in runs]
    for name in (b"train/loss", b"final/loss", b"optimizer.lr"):
        assert all(name in content for content in files), name
    assert b"val/loss" in files[0] and "wandb" not in said


def test_mlflow_in_a_local_file_is_one_run_when_continued(place):
    tracking = pytest.importorskip("mlflow.tracking")
    pytest.importorskip("sqlalchemy")
    folder, said = ran("logger=[csv,mlflow]")
    resumed(folder)
    client = tracking.MlflowClient("sqlite:///outputs/mlflow.db")
    (run,) = client.search_runs([client.get_experiment_by_name("yinggem").experiment_id])
    told = {entry.step: entry.value for entry in client.get_metric_history(run.info.run_id, "val/loss")}
    rows = {row["step"]: row["val/loss"] for row in read_metrics(folder / "metrics.csv") if "val/loss" in row}
    assert told == pytest.approx(rows) and run.info.status == "FINISHED"
    assert run.data.params["optimizer.lr"] and run.data.metrics["final/loss"] > 0 and "mlflow" not in said


def test_the_csv_logger_alone(place):
    folder, _ = ran("logger=csv")
    assert figures(folder, "val/loss") and not list(folder.glob("events*"))


@pytest.mark.parametrize("package", ["wandb", "mlflow"])
def test_a_tracker_that_is_not_installed_is_one_sentence(place, package, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *args: None if name == package else find(name, *args))
    assert f"yinggem[{package}]" in here(*SMALL, "data.path=own.txt", f"logger=[csv,{package}]").refused()


def test_the_best_three_are_kept_and_best_is_the_best(place):
    folder, _ = ran("callbacks.best.save_top_k=3", "trainer.val_check_interval=4", "optimizer.lr=0.1")
    losses = {row["step"]: row["val/loss"] for row in read_metrics(folder / "metrics.csv") if "val/loss" in row}
    wanted = sorted(losses, key=losses.__getitem__)[:3]
    names = {path.name for path in (folder / "checkpoints").iterdir()}
    assert names == {"best.ckpt", "last.ckpt"} | {f"best-{int(step):06}.ckpt" for step in wanted}
    assert read_checkpoint(folder / "checkpoints" / "best.ckpt")["global_step"] == wanted[0]
    assert (folder / "checkpoints" / "best.ckpt").samefile(folder / "checkpoints" / f"best-{int(wanted[0]):06}.ckpt")


def test_last_is_saved_every_some_minutes(place, monkeypatch):
    """Between validations, which save it too: the run fails in step 13 and is found saved after step 12."""
    step = LanguageModule.training_step

    def failing(self, batch, index):
        if self.global_step == 12:
            raise RuntimeError("on purpose")
        return step(self, batch, index)

    monkeypatch.setattr(LanguageModule, "training_step", failing)
    assert here(*SMALL, "data.path=own.txt", "callbacks.last.every_n_minutes=0").status == 2
    assert read_checkpoint(newest() / "checkpoints/last.ckpt")["global_step"] == 12


@pytest.mark.parametrize("setting", ["~callbacks", "callbacks=[]", "callbacks=[ema]", "~logger", "logger=null"])
def test_a_whole_group_can_be_left_out(place, setting):
    """Lightning puts no bar and no checkpoint of its own in the place of ours; the end is known all the same."""
    folder, said = ran(setting)
    names = {path.name for path in folder.iterdir()}
    if "logger" in setting:
        assert "metrics.csv" not in names | set(said.split()) and {"checkpoints", "samples.txt"} <= names
    else:
        assert {"metrics.csv", "result.json"} <= names and "Last validation loss" in said and "step 2/" not in said
        assert not names & {"checkpoints", "samples.txt", "loss_curve.png"} and "samples.txt" not in said


@pytest.mark.parametrize("setting", [
    "early_stopping.patience=-1", "early_stopping.patience=2.5", "best.save_top_k=-5", "best.save_top_k=1.5",
    "last.every_n_steps=0", "last.every_n_steps=-3", "last.every_n_minutes=-1",
])  # fmt: skip
def test_a_number_that_makes_no_sense_is_refused_before_a_run_is_begun(place, setting):
    sentence = here(*SMALL, "data.path=own.txt", f"callbacks.{setting}").refused()
    assert f"callbacks.{setting.partition('=')[0]} must be" in sentence and not list(place.glob("outputs/*/*"))


@pytest.mark.parametrize(("setting", "words"), [
    ("callbacks.best.monitor=val/los", "ModelCheckpoint cannot monitor 'val/los'"),
    ("callbacks.early_stopping.monitor=train/loss", "choose val/loss, val/perplexity or val/bits_per_byte"),
    ("+callbacks.ema.decay=0.9", "callbacks.ema is not part of this run"),
    ("logger=csv +logger.tensorboard.log_graph=true", "logger.tensorboard is not part of this run"),
    ("optimizer.eps=1", "optimizer.eps=1"),
])  # fmt: skip
def test_what_would_do_nothing_or_fail_late_is_refused_before_a_run_is_begun(place, setting, words):
    sentence = here(*SMALL, "data.path=own.txt", *setting.split()).refused()
    assert words in sentence and not list(place.glob("outputs/*/*"))


def test_early_stopping_has_the_patience_it_is_given(place):
    """The loss never falls by 9 nats, so the first check is the best."""
    options = ["callbacks.early_stopping.min_delta=9", "trainer.val_check_interval=2", "trainer.max_steps=40"]
    for patience in (1, 5):
        folder, _ = ran(*options, f"callbacks.early_stopping.patience={patience}")
        assert len(figures(folder, "val/loss")) == 1 + patience


def test_a_found_rate_is_as_if_it_was_typed(place):
    folder, said = ran("trainer.find_lr=true", "model.dropout=0.1", "trainer.log_every_n_steps=1")
    found = json.loads((folder / "found.json").read_text())["optimizer.lr"]
    assert f"optimizer.lr={found:g}" in said and (folder / "lr_find.png").read_bytes().startswith(b"\x89PNG")
    assert 1e-6 < found <= 1 and max(figures(folder, "lr")) < found  # the warm-up of 50 steps is longer than the run
    typed, _ = ran(f"optimizer.lr={found}", "model.dropout=0.1", "trainer.log_every_n_steps=1")
    resumed(folder)
    resumed(typed)
    ends = [read_checkpoint(path / "checkpoints" / "last.ckpt") for path in (folder, typed)]
    assert all(same(ends[0][part], ends[1][part]) for part in ("state_dict", "optimizer_states", "lr_schedulers"))
    rows = [
        [{k: v for k, v in row.items() if not depends_on_machine(k)} for row in read_metrics(path / "metrics.csv")]
        for path in (folder, typed)
    ]
    assert rows[0] == rows[1] and {path.name for path in folder.glob(".*")} == {".hydra"}


def test_several_rates_cannot_be_found(place):
    assert "several" in here(*SMALL, "data.path=own.txt", "optimizer=muon", "trainer.find_lr=true").refused()


def test_a_found_batch_size_is_used(place):
    folder, said = ran("trainer.find_batch_size=true", "trainer.max_steps=3")
    found = json.loads((folder / "found.json").read_text())["data.batch_size"]
    assert f"data.batch_size={found}" in said and found > 4 and math.log2(found / 4).is_integer()
    position = read_checkpoint(folder / "checkpoints" / "last.ckpt")
    assert position["global_step"] == 3


def test_profilers_leave_a_table_and_a_trace(place):
    folder, _ = ran("profiler=simple")
    assert "run_training_batch" in next(folder.glob("*profile*.txt")).read_text()
    folder, _ = ran("profiler=pytorch")
    (trace,) = folder.glob("*training_step*.pt.trace.json")
    names = {event.get("name") for event in json.loads(trace.read_text())["traceEvents"]}
    assert any("aten::mm" in str(name) for name in names)
    assert "aten::" in next(folder.glob("*profile*.txt")).read_text()


def test_device_stats_run_on_any_device(place):
    """Of a CPU they are load and memory, where they are asked for, before and after every step that is logged."""
    pytest.importorskip("psutil")
    for asked in (False, True):
        folder, _ = ran("callbacks=[default,device_stats]", f"callbacks.device_stats.cpu_stats={str(asked).lower()}")
        rows = read_metrics(folder / "metrics.csv")
        for moment in ("on_train_batch_start", "on_train_batch_end"):
            name = f"DeviceStatsMonitor.{moment}/cpu_vm_percent"
            measured = [row[STEP] for row in rows if 0 < row.get(name, -1) < 100]
            assert measured == ([row[STEP] for row in rows if "train/loss" in row] if asked else []), name


def test_anomaly_names_the_operation(place, monkeypatch):
    """A square root at zero has an infinite gradient; times zero that is no number."""
    loss = LanguageModule.loss
    monkeypatch.setattr(
        LanguageModule, "loss", lambda self, batch, reduction="mean": loss(self, batch, reduction) + (
            0 * self.model.head.weight.sum()).sqrt() * 0
    )  # fmt: skip
    sentence = here(*SMALL, "data.path=own.txt", "debug=anomaly").refused()
    assert "SqrtBackward" in sentence and not torch.is_anomaly_enabled()
    assert "SqrtBackward" not in here(*SMALL, "data.path=own.txt").refused()


def test_overfit_learns_one_batch_by_heart(place):
    folder, _ = ran("debug=overfit", "trainer.log_every_n_steps=10", "scheduler.warmup_steps=10")
    losses = figures(folder, "train/loss")
    assert losses[-1] < 0.1 < losses[0] / 20 and len(losses) == 30


def test_limit_batches_is_a_few_of_everything(place):
    folder, _ = ran("debug=limit_batches")
    rows = read_metrics(folder / "metrics.csv")
    assert [row["step"] for row in rows if "train/loss" in row] == list(range(1, 11))
    assert [row["step"] for row in rows if "val/loss" in row] == [5, 10]
    assert figures(folder, "epoch")[-1] == 1  # five batches are an epoch


def test_fast_dev_run_writes_nothing(place):
    done = here(*SMALL, "data.path=own.txt", "debug=fast_dev_run")
    assert done.status == 0 and not done.err and not list(place.glob("outputs/*/*")), done
