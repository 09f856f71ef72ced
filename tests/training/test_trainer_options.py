"""Options of the trainer that make no sense are refused by name before there is a trainer."""

from typing import Any

import pytest

from yinggem.common.errors import UserError
from yinggem.training.trainer import Trainer

REFUSED: dict[str, list[Any]] = {
    "strategy": ["deepspeed", "deepspeed_stage_3", "ddp_notebook", "ddp_spawn", "fsdp_cpu_offload", "xla", "banana"],
    "accelerator": ["banana", "hpu"],
    "devices": ["two", 0, -2, 1.5, True, ["0"], "1;2"],
    "num_nodes": [0, "2"],
    "max_steps": [0, -3, 2.5, True, "ten"],
    "max_epochs": [0, "1"],
    "max_time": ["an hour", "1:00", "00:00:00:99"],
    "accumulate_grad_batches": [0, 1.0, "2"],
    "gradient_clip_val": [-1, "1", float("nan"), float("inf")],
    "gradient_clip_algorithm": ["norms", 2],
    "val_check_interval": [0, 0.0, -1, 1.5, "half", True],
    "check_val_every_n_epoch": [0, 0.5],
    "limit_train_batches": [-1, 1.2, "all"],
    "limit_val_batches": [-0.5, "1"],
    "overfit_batches": [-1, "one"],
    "log_every_n_steps": [0, 2.0],
    "skip_bad_steps": [-1, "1"],
    "precision": ["banana", 8],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in REFUSED.items() for value in values])
def test_an_option_that_makes_no_sense_is_named_with_its_value(name, value):
    with pytest.raises(UserError) as refused:
        Trainer(**({"accelerator": "cpu", "logger": False} | {name: value}))
    sentence = str(refused.value)
    assert f"trainer.{name}" in sentence and sentence.count(". ") == 0 and sentence.endswith(".")


def test_an_option_that_lightning_does_not_know_is_one_sentence():
    with pytest.raises(UserError, match=r"trainer does not take these values.*banana"):
        Trainer(accelerator="cpu", banana=1)


def test_a_part_of_an_epoch_says_nothing_where_steps_count_over_all_epochs():
    with pytest.raises(UserError, match=r"trainer\.val_check_interval must be a whole number of steps, not 0\.5"):
        Trainer(accelerator="cpu", check_val_every_n_epoch=None, val_check_interval=0.5)


@pytest.mark.parametrize(
    "options",
    [
        {"strategy": "ddp"}, {"devices": "1"}, {"max_time": "00:00:04:00"}, {"max_steps": -1, "max_epochs": -1},
        {"val_check_interval": 10_000}, {"limit_val_batches": 0}, {"gradient_clip_val": None}, {"fast_dev_run": True},
    ],
)  # fmt: skip
def test_what_makes_sense_is_taken(options):
    Trainer(**({"accelerator": "cpu", "logger": False} | options))
