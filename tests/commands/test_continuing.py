"""Continuing: from what is recorded and the words typed now; a refused command changes nothing; one writer a folder."""

import contextlib
import hashlib
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from running import ROOT, SMALL, TEXT, here, newest

from yinggem.inference.checkpoint import read_checkpoint
from yinggem.runs.lock import only_writer
from yinggem.runs.record import read_overrides
from yinggem.runs.resume import merge_difference

SETTINGS = [*SMALL, "data.path=own.txt", "trainer.max_steps=10", "callbacks=[early_stopping,checkpoint]", "logger=csv"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A folder with a text and one finished run."""
    place = tmp_path_factory.mktemp("finished")
    (place / "own.txt").write_text(TEXT)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        assert here(*SETTINGS).status == 0
    return place


@pytest.fixture
def place(finished, tmp_path, monkeypatch):
    """A copy of it, where commands run."""
    shutil.copytree(finished, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    return tmp_path / "copy"


def on_disk(place: Path) -> dict[str, str]:
    """Every file with a digest of its content; locks aside, which are empty."""
    files = (path for path in place.rglob("*") if path.is_file() and path.name != "lock")
    return {str(path.relative_to(place)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.mark.slow
@pytest.mark.parametrize("refused", [
    ["model.dropout=0.2"], ["trainer.precision=banana"], ["optimizer=adamw"], ["data.context_length=100000"],
    ["tokenizer=char"], ["trainer.nope=3"], ["callbacks.best.monitor=val/nope"], ["model=base"],
    ["optimizer.lr=high"], ["data.path=nowhere.txt"], ["trainer.strategy=deepspeed"], ["~nothing"],
], ids=lambda words: words[0])  # fmt: skip
def test_a_refused_command_changes_nothing_on_disk(place, refused):
    before = on_disk(place)
    here("ckpt_path=last", "trainer.max_steps=12", *refused).refused()
    assert on_disk(place) == before


@pytest.mark.slow
@pytest.mark.parametrize("refused", [
    ["model.hidden_size=33"], ["trainer.precision=banana"], ["data.path=nowhere.txt"], ["-m", "optimizer=nope,muon"],
], ids=lambda words: words[-1])  # fmt: skip
def test_a_refused_new_run_leaves_what_was_there(place, refused):
    before = on_disk(place)
    here(*SETTINGS, *refused).refused()
    assert on_disk(place) == before


@pytest.mark.slow
@pytest.mark.parametrize("logger", ["tensorboard", "mlflow", "wandb"])
def test_no_logger_has_begun_when_a_run_is_refused(place, logger, monkeypatch):
    """Not even where the checkpoint itself is what does not fit."""
    if logger != "tensorboard":
        pytest.importorskip(logger)
    monkeypatch.setenv("WANDB_MODE", "offline")
    before = on_disk(place)
    here("ckpt_path=last", "trainer.max_steps=12", f"logger=[csv,{logger}]", "optimizer=adamw").refused()
    assert {name: digest for name, digest in on_disk(place).items() if not name.endswith("mlflow.db")} == before


@pytest.mark.slow
def test_what_is_right_goes_on_after_a_refusal(place):
    here("ckpt_path=last", "model.dropout=0.2", "trainer.max_steps=12").refused()
    here("ckpt_path=last", "optimizer=adamw", "trainer.max_steps=12").refused()
    done = here("ckpt_path=last", "trainer.max_steps=12")
    assert done.status == 0, done
    assert read_checkpoint(newest() / "checkpoints" / "last.ckpt")["global_step"] == 12
    assert read_overrides(newest())[-1] == "trainer.max_steps=12"


@pytest.mark.slow
def test_a_default_that_has_changed_since_changes_no_run(place):
    """Nobody typed these two: they are the defaults of the version that the run was started with."""
    config = newest() / ".hydra" / "config.yaml"
    recorded = yaml.safe_load(config.read_text())
    recorded["optimizer"]["lr"], recorded["trainer"]["log_every_n_steps"] = 0.0123, 1
    del recorded["trainer"]["detect_anomaly"]  # which that version did not know yet
    config.write_text(yaml.safe_dump(recorded))
    shown = here("--cfg", "job", "ckpt_path=last", "trainer.max_steps=11")
    told = yaml.safe_load(shown.out)
    assert (told["optimizer"]["lr"], told["trainer"]["max_steps"]) == (0.0123, 11)
    assert "detect_anomaly" not in told["trainer"]
    later = yaml.safe_load(here("--cfg", "job", "ckpt_path=last", "trainer.detect_anomaly=true").out)
    assert later["trainer"]["detect_anomaly"] is True and later["optimizer"]["lr"] == 0.0123
    assert here("ckpt_path=last", "trainer.max_steps=11").status == 0
    assert yaml.safe_load(config.read_text())["optimizer"]["lr"] == 0.0123


@pytest.mark.slow
def test_a_group_that_is_chosen_now_changes_what_it_changes_today(place):
    config = newest() / ".hydra" / "config.yaml"
    recorded = yaml.safe_load(config.read_text())
    recorded["data"]["num_workers"], recorded["callbacks"]["last"]["every_n_minutes"] = 3, 7
    config.write_text(yaml.safe_dump(recorded))
    told = yaml.safe_load(here("--cfg", "job", "ckpt_path=last", "callbacks=[default,ema]", "scheduler=constant").out)
    assert told["callbacks"]["ema"]["decay"] == 0.999 and "samples" in told["callbacks"]
    assert told["scheduler"]["_target_"].endswith("constant") and "decay_fraction" not in told["scheduler"]
    assert told["callbacks"]["last"]["every_n_minutes"] == 7 and told["data"]["num_workers"] == 3


def test_the_difference_of_two_compositions_is_merged():
    recorded = {"a": {"_target_": "x", "b": 1, "old": 5}, "c": 2, "gone": 3}
    before = {"a": {"_target_": "x", "b": 9}, "c": 2, "gone": 3, "part": {"_target_": "p", "q": 1}}
    assert merge_difference(recorded, before, before) == recorded
    after = {"a": {"_target_": "x", "b": 10}, "c": 2, "new": 4, "part": {"_target_": "other"}}
    merged = {"a": {"_target_": "x", "b": 10, "old": 5}, "c": 2, "new": 4, "part": {"_target_": "other"}}
    assert merge_difference(recorded, before, after) == merged


OWN = {
    "mylab/__init__.py": "import torch\n\n\nclass Plain(torch.optim.SGD):\n    pass\n",
    "mylab/conf/optimizer/plain.yaml": "_target_: mylab.Plain\n_partial_: true\nlr: 0.1\n",
    "mylab/conf/experiment/mine.yaml": "# @package _global_\ndefaults:\n  - smoke\n  - override /optimizer: plain\n"
    "  - override /data: text\n  - override /scheduler: constant\ndata:\n  path: own.txt\n  context_length: 32\n"
    "trainer:\n  max_steps: 10\n",
}


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A folder with a person's own module and groups of configuration."""
    for name, content in OWN.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    (tmp_path / "own.txt").write_text(TEXT)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    sys.modules.pop("mylab", None)


@pytest.mark.slow
def test_groups_of_ones_own_are_recorded_whole(own):
    quick = ["~callbacks.samples", "logger=csv", "trainer.accelerator=cpu"]
    assert here("--config-dir", "mylab/conf", "experiment=mine", *quick).status == 0
    shown = yaml.safe_load(here("--cfg", "job", "ckpt_path=last").out)
    assert shown["optimizer"] == {"_target_": "mylab.Plain", "_partial_": True, "lr": 0.1}
    shutil.rmtree(own / "mylab" / "conf" / "experiment")  # what is needed to go on is in the run
    done = here("ckpt_path=last", "trainer.max_steps=12")
    assert done.status == 0 and read_checkpoint(newest() / "checkpoints/last.ckpt")["global_step"] == 12, done


@pytest.mark.slow
def test_a_sweep_over_groups_of_ones_own_is_continued(own):
    words = ["experiment=mine", "~callbacks.samples", "logger=csv", "trainer.accelerator=cpu", "optimizer.lr=0.1,0.2"]
    assert here("-m", "--config-dir=mylab/conf", *words).status == 0
    (sweep,) = (path.parent for path in own.glob("outputs/*/*/multirun.yaml"))
    shutil.rmtree(sweep / "1")
    done = here("-m", "ckpt_path=last")
    assert done.status == 0 and "Job 0 is finished already." in done.out, done
    assert (sweep / "1" / "checkpoints" / "last.ckpt").is_file()


@contextlib.contextmanager
def another_writer(run: Path):
    """Another process that holds the lock of a run folder until it is killed."""
    code = "import sys, time\nfrom pathlib import Path\nfrom yinggem.runs.lock import only_writer\n"
    code += f"with only_writer(Path({str(run)!r})):\n    print(1, flush=True)\n    time.sleep(600)\n"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, cwd=ROOT) as other:
        assert other.stdout is not None and other.stdout.read(1) == b"1"
        try:
            yield
        finally:
            other.kill()


@pytest.mark.slow
@pytest.mark.parametrize("words", [
    ["ckpt_path=last"], ["ckpt_path={run}/checkpoints/best.ckpt"], [*SETTINGS, "hydra.run.dir={run}"],
], ids=["last", "a checkpoint", "its folder"])  # fmt: skip
def test_a_run_folder_has_one_writer(place, words):
    before, words = on_disk(place), [word.format(run=newest()) for word in words]
    with another_writer(newest()):
        assert "Another process is writing" in here(*words, "trainer.max_steps=12").refused()
    assert on_disk(place) == before


@pytest.mark.slow
def test_the_lock_dies_with_its_process_and_a_moved_run_is_not_locked(place):
    with another_writer(newest()):
        shutil.copytree(newest(), "copy")
        assert here("ckpt_path=copy", "trainer.max_steps=12").status == 0
    assert here("ckpt_path=last", "trainer.max_steps=12").status == 0


@pytest.mark.slow
def test_a_new_run_never_begins_in_the_folder_of_another(place):
    before = on_disk(place)
    assert "holds a run already" in here(*SETTINGS, f"hydra.run.dir={newest()}").refused()
    assert on_disk(place) == before


@pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing is inherited without fork")
def test_a_process_that_outlives_the_writer_holds_no_lock(tmp_path):
    """A worker of the data loader, say, that has not noticed yet that its run was killed."""
    code = f"""
import os, sys, time
from pathlib import Path
from yinggem.runs.lock import only_writer
with only_writer(Path({str(tmp_path)!r})):
    if os.fork() == 0:
        time.sleep(30)
        os._exit(0)
    os.kill(os.getpid(), 9)
"""
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == -9
    start = time.monotonic()
    with only_writer(tmp_path):
        assert time.monotonic() - start < 25  # the other process is there for 30 s


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="names of other systems are text")
def test_folders_whose_names_are_not_utf8_work(tmp_path, monkeypatch):
    """The current one, that of the text, and the text itself."""
    place = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
    place.mkdir()
    (place / os.fsdecode(b"po\xe8me.txt")).write_text(TEXT)
    monkeypatch.chdir(place)
    words = [*SMALL, "data.path=" + os.fsdecode(b"po\xe8me.txt"), "trainer.max_steps=10", "callbacks=[checkpoint]"]
    assert here(*words, "logger=[tensorboard,csv]").status == 0
    assert list(newest().glob("events.out.tfevents.*"))
    assert here("ckpt_path=last", "trainer.max_steps=12").status == 0
    assert read_checkpoint(newest() / "checkpoints" / "last.ckpt")["global_step"] == 12
