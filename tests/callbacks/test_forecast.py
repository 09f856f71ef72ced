"""What a run says of its length: true where the speed is known, in words, with every reason to end."""

import re
from types import SimpleNamespace

import pytest
from running import SMALL, TEXT, here

from yinggem.callbacks import forecast
from yinggem.callbacks.forecast import in_words, seconds_left, sentence, steps_between_validations


@pytest.mark.slow
def test_a_run_says_how_long_it_takes_and_why_it_ends(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.txt").write_text(TEXT)
    done = here(*SMALL, "data.path=own.txt", "trainer.max_time=00:02:00:00", "logger=csv", "callbacks=[early_stopping]")
    (line,) = re.findall(r"^Takes .*$", done.out, re.MULTILINE)
    assert done.status == 0 and " on this machine: it ends after trainer.max_steps=20, or when " in line, done
    assert "trainer.max_time=00:02:00:00 is over" in line, done
    assert "val/loss has not improved in 3 validations." in line, done


def trainer_of(**options):
    """What the functions read of a trainer: ten batches an epoch, seven of validation."""
    given = {"max_steps": -1, "max_epochs": -1, "callbacks": [], "accumulate_grad_batches": 1, "num_val_batches": [7],
             "num_training_batches": 10, "check_val_every_n_epoch": 1, "interval": 1.0} | options  # fmt: skip
    loop = SimpleNamespace(epoch_loop=SimpleNamespace(interval=given.pop("interval")))
    data = SimpleNamespace(batch_size=2, context_length=8, eval_batch_size=4, eval_context_length=16)
    return SimpleNamespace(**given, fit_loop=loop, datamodule=data)


@pytest.mark.parametrize(("options", "steps"), [
    ({}, 10), ({"interval": 0.5}, 5), ({"interval": 4}, 4), ({"interval": 40}, 10),
    ({"interval": 40, "check_val_every_n_epoch": None}, 40), ({"accumulate_grad_batches": 2}, 5),
    ({"check_val_every_n_epoch": 3}, 30),
])  # fmt: skip
def test_validations_are_counted_as_the_loop_counts_them(options, steps):
    assert steps_between_validations(trainer_of(**options)) == steps


def test_the_time_is_that_of_steps_and_of_validations():
    """A step of 16 tokens in 1.6 s is 0.1 s a token, a third of that where there is no backward pass."""
    assert seconds_left(trainer_of(), 20, 1.6) == pytest.approx(20 * 1.6 + 3 * 7 * 4 * 16 * 0.1 / 3)


def test_hours_are_said_as_hours_with_the_way_to_a_smaller_model():
    long = sentence(trainer_of(max_epochs=100), 310 * 3600)
    assert long.startswith("about 310 hours (13 days) on this machine: it ends after trainer.max_epochs=100; ")
    assert "model=tiny" in long and "model=tiny" not in sentence(trainer_of(max_steps=5), 200)
    assert sentence(trainer_of(), None).startswith("as long as you let it: it ends with Ctrl-C")


@pytest.mark.parametrize(("seconds", "words"), [
    (3, "a few seconds"), (42, "about 40 seconds"), (230, "about 4 minutes"), (3500, "about 58 minutes"),
    (7 * 3600, "about 7 hours"), (100 * 3600, "about 100 hours (4 days)"),
])  # fmt: skip
def test_times_in_words(seconds, words):
    assert in_words(seconds) == words


def test_the_smaller_one_that_is_named_is_there():
    from yinggem.commands.train import CONF

    assert all((CONF / "model" / f"{name}.yaml").is_file() for name in re.findall(r"model=(\w+)", forecast.SMALLER))
