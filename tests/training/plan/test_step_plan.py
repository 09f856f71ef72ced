"""A run that only the time limits: the number of steps is planned once, and kept."""

import json

import pytest
from running import SMALL, TEXT, here, same

from yinggem.inference.checkpoint import read_checkpoint
from yinggem.runs.metrics_file import read_metrics

OPEN = [*SMALL, "data.path=own.txt", "trainer.max_steps=-1", "trainer.max_epochs=-1", "trainer.log_every_n_steps=1",
        "~callbacks.samples", "~callbacks.loss_curve", "optimizer=adamw"]  # fmt: skip
LIMIT = "trainer.max_time=00:00:00:04"


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder of one's own with a text."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.txt").write_text(TEXT)
    return tmp_path


@pytest.mark.slow
def test_the_rate_falls_to_its_end_in_the_steps_that_were_planned(place):
    done = here(*OPEN, LIMIT, "outputs=one")
    assert done.status == 0, done
    (folder,) = place.glob("one/*/*/")
    found = json.loads((folder / "found.json").read_text())
    steps = found["trainer.max_steps"]
    assert steps > 1 and f"trainer.max_steps={steps}" in done.out
    rates = [row["lr"] for row in read_metrics(folder / "metrics.csv") if "lr" in row]
    typed = here(*OPEN, LIMIT, f"trainer.max_steps={steps}", "outputs=two", "trainer.max_time=00:00:10:00")
    assert typed.status == 0, typed
    (other,) = place.glob("two/*/*/")
    expected = [row["lr"] for row in read_metrics(other / "metrics.csv") if "lr" in row]
    assert rates == expected[: len(rates)]  # the clock may have ended it a little earlier
    if len(rates) == len(expected):
        last = [read_checkpoint(run / "checkpoints" / "last.ckpt") for run in (folder, other)]
        assert same(last[0]["state_dict"], last[1]["state_dict"])


@pytest.mark.slow
def test_the_plan_is_kept_and_made_anew_for_another_limit(place):
    done = here(*OPEN, LIMIT)
    assert done.status == 0, done
    (folder,) = place.glob("outputs/*/*/")
    planned = json.loads((folder / "found.json").read_text())
    again = here("ckpt_path=last")
    assert again.status == 0 and "Planned" not in again.out, again
    assert json.loads((folder / "found.json").read_text()) == planned
    longer = here("ckpt_path=last", "trainer.max_time=00:00:00:06")
    assert longer.status == 0 and "Planned" in longer.out, longer
    assert json.loads((folder / "found.json").read_text())["trainer.max_time"] == "00:00:00:06"


@pytest.mark.slow
def test_a_schedule_without_an_end_needs_no_plan(place):
    done = here(*OPEN, "trainer.max_time=00:00:00:01", "scheduler=constant")
    assert done.status == 0 and "Planned" not in done.out, done


@pytest.mark.slow
def test_a_recipe_that_takes_too_long_ends_with_its_schedule_and_what_is_typed_stays(place):
    tiny = [
        *("model=tiny", "data=text", "data.path=own.txt", "tokenizer=byte", "model.hidden_size=32", "memory=none"),
        *("trainer.accelerator=cpu", "data.eval_context_length=null", "~callbacks.samples", "baseline=false", LIMIT),
    ]
    done = here(*tiny)
    assert done.status == 0 and "Planned    trainer.max_steps=" in done.out, done
    (folder,) = place.glob("outputs/*/*/")
    planned = json.loads((folder / "found.json").read_text())
    assert planned["trainer.max_steps"] < 3600
    again = here("ckpt_path=last")  # nothing is left, or what the clock cut off
    assert again.status == 0 and "Planned" not in again.out, again
    assert json.loads((folder / "found.json").read_text()) == planned
    typed = here(*tiny, "trainer.max_steps=3600", "outputs=two", "trainer.max_time=00:00:00:01")
    assert typed.status == 0 and "Planned" not in typed.out and "max_time=00:00:00:01 is over" in typed.out, typed
