"""Numbers that overflow for real: the run stops with step, learning rate and the last good checkpoint named."""

import math
import re

import pytest
from harness import Place

from yinggem.inference.checkpoint import load_model
from yinggem.runs.metrics_file import read_metrics

pytestmark = pytest.mark.slow
ABSURD = ["optimizer=adamw", "optimizer.lr=1e36", "scheduler=constant"]


def rows(place: Place) -> list[dict[str, float]]:
    (path,) = place.outputs.glob("*/*/metrics.csv")
    return read_metrics(path)


def test_an_absurd_learning_rate_stops_the_run(place):
    process = place.run(*place.arguments(*ABSURD))
    sentence = process.sentence()
    assert process.status == 2 and re.search(r"at step \d+ with learning rate 1e\+36", sentence), process.told()
    assert "no good checkpoint was written yet" in sentence and "skip_bad_steps" in sentence


def test_a_rate_that_grows_names_the_last_good_checkpoint(place):
    """The warm-up reaches an absurd rate only after the first validations."""
    options = ["optimizer=adamw", "optimizer.lr=1e3", "scheduler=warmup_cosine", "scheduler.warmup_steps=160",
               "trainer.gradient_clip_val=null", "trainer.val_check_interval=2"]  # fmt: skip
    process = place.run(*place.arguments(*options))
    match = re.search(r"at step (\d+) with learning rate \S+; the last good checkpoint is (\S+):", process.sentence())
    assert process.status == 2 and match, process.told()
    model, _ = load_model(match[2])
    assert all(bool(weights.isfinite().all()) for weights in model.parameters())
    losses = [row["val/loss"] for row in rows(place) if "val/loss" in row]
    assert losses and all(map(math.isfinite, losses))


def test_bad_steps_are_skipped_and_counted(place):
    process = place.run(*place.arguments(*ABSURD, "trainer.skip_bad_steps=3", "callbacks.last.every_n_steps=null"))
    assert process.status == 2 and process.sentence(), process.told()
    assert max(row.get("skipped_steps", 0) for row in rows(place)) == 3
