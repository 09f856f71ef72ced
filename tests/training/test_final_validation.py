"""Every run ends with a validation; one that is made longer ends as if it had been that long from the beginning."""

import csv
import re
from pathlib import Path

import pytest
from running import SMALL, TEXT, here, same, soaked

from yinggem.inference.checkpoint import read_checkpoint
from yinggem.runs.metrics_file import STEP, depends_on_machine

RUN = [*SMALL, "data.path=own.txt", "scheduler=constant", "model.dropout=0.1", "trainer.log_every_n_steps=3"]
EPOCHS = ["trainer.max_steps=-1", "trainer.val_check_interval=1.0", "data.batch_size=40"]
WAYS = {
    "steps": ([], ["trainer.max_steps=19"], ["trainer.max_steps=25"]),
    "twice": ([], ["trainer.max_steps=13"], ["trainer.max_steps=19"], ["trainer.max_steps=22"]),
    "at a validation": ([], ["trainer.max_steps=20"], ["trainer.max_steps=23"]),
    "before the first validation": ([], ["trainer.max_steps=8"], ["trainer.max_steps=23"]),
    "never at the interval": (["trainer.val_check_interval=100"], ["trainer.max_steps=6"], ["trainer.max_steps=9"]),
    "three best": (["callbacks.best.save_top_k=3", "trainer.val_check_interval=4"],
                   ["trainer.max_steps=18"], ["trainer.max_steps=22"]),
    "all": (["callbacks.best.save_top_k=-1"], ["trainer.max_steps=19"], ["trainer.max_steps=22"]),
    "averaged": (["callbacks=[default,ema]", "callbacks.ema.decay=0.8"],
                 ["trainer.max_steps=19"], ["trainer.max_steps=25"]),
    "without last.ckpt's callback": (["~callbacks.last"], ["trainer.max_steps=19"]),
    "epochs": ([*EPOCHS, "trainer.check_val_every_n_epoch=2"], ["trainer.max_epochs=3"], ["trainer.max_epochs=5"]),
    "a worse end": (["optimizer=adamw", "optimizer.lr=0.5"], ["trainer.max_steps=13"], ["trainer.max_steps=22"]),
}  # fmt: skip
ALWAYS = ["before the first validation", "averaged"]


@pytest.fixture
def place(tmp_path, monkeypatch):
    (tmp_path / "own.txt").write_text(TEXT)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def rows(run: Path) -> list[dict[str, str]]:
    with open(run / "metrics.csv", newline="") as file:
        return [{name: cell for name, cell in row.items() if not depends_on_machine(name)}
                for row in csv.DictReader(file)]  # fmt: skip


def end(run: Path) -> dict:
    """All that a run leaves and that must not depend on how it came about."""
    found = {"rows": rows(run), "samples": (run / "samples.txt").read_bytes()}
    for path in (run / "checkpoints").iterdir():
        content = read_checkpoint(path)
        content["callbacks"].pop("Timer", None)
        found[path.name] = [content[name] for name in ("global_step", "state_dict", "optimizer_states", "callbacks")]
    return found


@pytest.mark.slow
@pytest.mark.parametrize("way", soaked(WAYS, ALWAYS))
def test_a_lengthened_run_ends_with_the_bits_of_a_straight_one(place, way):
    settings, *limits = WAYS[way]
    straight = here(*RUN, *settings, *limits[-1], "hydra.run.dir=outputs/runs/straight")
    assert straight.status == 0, straight
    started = here(*RUN, *settings, *limits[0], "hydra.run.dir=outputs/runs/longer")
    assert started.status == 0, started
    for limit in limits[1:]:
        longer = here("ckpt_path=outputs/runs/longer", *limit)
        assert longer.status == 0 and not longer.err, longer
    ends = [end(place / "outputs" / "runs" / name) for name in ("straight", "longer")]
    assert ends[0].keys() == ends[1].keys()
    for part in ends[0]:
        assert same(ends[0][part], ends[1][part]), part


def validated(run: Path) -> list[int]:
    return [int(row[STEP]) for row in rows(run) if row.get("val/loss")]


@pytest.mark.slow
@pytest.mark.parametrize(("settings", "steps"), [
    (["trainer.max_steps=13"], [10, 13]),
    (["trainer.max_steps=10"], [10]),
    (["trainer.max_steps=4"], [4]),
    ([*EPOCHS, "trainer.max_epochs=2", "trainer.val_check_interval=3", "trainer.check_val_every_n_epoch=1"],
     [3, 8, 10]),
    (["trainer.max_steps=5", "trainer.limit_val_batches=0"], []),
])  # fmt: skip
def test_every_run_ends_with_a_validation(place, settings, steps):
    done = here(*RUN, *settings, "hydra.run.dir=outputs/runs/one")
    assert done.status == 0, done
    run = place / "outputs" / "runs" / "one"
    assert validated(run) == steps
    if steps:
        best = min((float(row["val/loss"]), int(row[STEP])) for row in rows(run) if row.get("val/loss"))[1]
        assert read_checkpoint(run / "checkpoints" / "best.ckpt")["global_step"] == best
        assert f"at step {best}." in done.out and f"Ended after {steps[-1]} steps" in done.out
    by_epochs = "trainer.max_epochs=2" in settings
    assert re.findall(r"^epoch (\d)/2, step", done.out, re.MULTILINE) == ["1", "2", "2"] * by_epochs


@pytest.mark.slow
def test_a_finished_run_that_is_continued_is_left_as_it_was(place):
    """Also where it was killed while it validated its end, which has then to be done again."""
    run = place / "outputs" / "runs" / "one"
    assert here(*RUN, "trainer.max_steps=13", f"hydra.run.dir={run}").status == 0
    before = end(run)
    assert here(f"ckpt_path={run}").status == 0
    after = end(run)
    assert before.keys() == after.keys()
    for part in before:
        assert same(before[part], after[part]), (part, before[part], after[part])
    (run / "checkpoints" / "earlier_best.ckpt").rename(run / "checkpoints" / "best.ckpt")
    (run / "metrics.csv").write_text("".join((run / "metrics.csv").read_text().splitlines(keepends=True)[:-1]))
    assert here(f"ckpt_path={run}").status == 0
    assert same(before, end(run))


@pytest.mark.slow
def test_the_final_validation_does_not_count_for_patience(place):
    """Every validation is worse than the one before: the third ends the run, the one at its end is none of them."""
    worse = [
        "optimizer=adamw",
        "optimizer.lr=0.5",
        "callbacks.early_stopping.patience=2",
        "trainer.val_check_interval=4",
    ]
    worse += ["callbacks.early_stopping.patience=2"]
    assert here(*RUN, *worse, "trainer.max_steps=9", "hydra.run.dir=outputs/runs/one").status == 0
    last = read_checkpoint(place / "outputs" / "runs" / "one" / "checkpoints" / "last.ckpt")
    (state,) = (state for key, state in last["callbacks"].items() if key.startswith("EarlyStopping"))
    assert validated(place / "outputs" / "runs" / "one") == [4, 8, 9] and state["wait_count"] <= 1
