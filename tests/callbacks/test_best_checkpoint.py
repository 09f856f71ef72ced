"""best.ckpt is the best of all, in a run that was moved, copied or renamed as well."""

import shutil
from pathlib import Path

import pytest
from running import SMALL, TEXT, here, same

from yinggem.callbacks.best_checkpoint import ModelCheckpoint, file_name
from yinggem.inference.checkpoint import read_checkpoint, write_checkpoint

RUN = [*SMALL, "data.path=own.txt", "optimizer=adamw", "scheduler=constant", "trainer.max_steps=20"]


@pytest.fixture
def place(tmp_path, monkeypatch):
    (tmp_path / "own.txt").write_text(TEXT)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def best_state(run: Path) -> dict:
    callbacks = read_checkpoint(run / "checkpoints" / "last.ckpt")["callbacks"]
    return next(state for key, state in callbacks.items() if key.startswith("ModelCheckpoint"))


def out_of_reach(run: Path, folder: str = "") -> None:
    """Let the scores so far be better than any to come; with `folder`, in paths as an earlier version recorded them."""
    path, start = run / "checkpoints" / "last.ckpt", f"{folder}/" if folder else ""
    content = read_checkpoint(path)
    state = next(state for key, state in content["callbacks"].items() if key.startswith("ModelCheckpoint"))
    for key in ("best_model_path", "kth_best_model_path"):
        state[key] = state[key] and start + state[key]
    for key in ("best_model_score", "current_score", "kth_value"):
        state[key] = state[key] / 100
    state["dirpath"] = folder
    state["best_k_models"] = {start + name: score / 100 for name, score in state["best_k_models"].items()}
    write_checkpoint(path.with_name("new.ckpt"), content)
    path.with_name("new.ckpt").rename(path)


@pytest.mark.slow
@pytest.mark.parametrize("how", [
    "moved", "from Windows", "three best",
    *(pytest.param(how, marks=pytest.mark.soak) for how in ("copied", "renamed", "earlier")),
])  # fmt: skip
def test_a_run_that_was_moved_keeps_its_best(place, how):
    several = ["callbacks.best.save_top_k=3", "trainer.val_check_interval=5"] if how == "three best" else []
    old, new = (
        place / "outputs" / "runs" / "old",
        place / ("outputs/runs/new" if how == "renamed" else "elsewhere/mine"),
    )
    assert here(*RUN, *several, f"hydra.run.dir={old}").status == 0
    best = read_checkpoint(old / "checkpoints" / "best.ckpt")
    best = {name: best[name] for name in ("global_step", "state_dict")}
    new.parent.mkdir(exist_ok=True)
    if how == "copied":
        shutil.copytree(old, new)
        (old / "checkpoints" / "best.ckpt").unlink()  # not written over: `best` is still mapped from it
    else:
        old.rename(new)
    folders = {"earlier": str(old / "checkpoints"), "from Windows": "C:\\runs\\old"}
    out_of_reach(new, folders.get(how, ""))
    done = here(f"ckpt_path={new}", "trainer.max_steps=30")
    assert done.status == 0 and "dirpath" not in done.err and "Best validation loss" in done.out, done
    found = read_checkpoint(new / "checkpoints" / "best.ckpt")
    assert same(best, {name: found[name] for name in best}) and f"at step {best['global_step']}." in done.out
    state = best_state(new)
    names = [state["best_model_path"], state["kth_best_model_path"], *state["best_k_models"]]
    assert not [name for name in names if "/" in name or "\\" in name] and str(place) not in repr(state)


@pytest.mark.slow
def test_a_best_file_that_is_gone_is_not_believed(place):
    run = place / "outputs" / "runs" / "one"
    assert here(*RUN, f"hydra.run.dir={run}").status == 0
    out_of_reach(run)
    (run / "checkpoints" / "best.ckpt").unlink()
    assert here(f"ckpt_path={run}", "trainer.max_steps=30").status == 0
    assert read_checkpoint(run / "checkpoints" / "best.ckpt")["global_step"] == 30


@pytest.mark.parametrize(("path", "name"), [
    ("/a/b/best.ckpt", "best.ckpt"), ("C:\\a\\best-000010.ckpt", "best-000010.ckpt"), ("best.ckpt", "best.ckpt"),
    ("", ""),
])  # fmt: skip
def test_the_name_of_a_file_whatever_system_wrote_its_path(path, name):
    assert file_name(path) == name


def test_the_state_holds_no_path(tmp_path):
    callback = ModelCheckpoint(str(tmp_path), monitor="val/loss")
    assert str(tmp_path) not in repr(callback.state_dict())
