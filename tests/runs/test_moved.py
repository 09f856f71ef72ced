"""What configurations of earlier versions name is found where it is now."""

import importlib

import pytest

from yinggem.runs.moved import MOVED, with_present_names


@pytest.mark.parametrize("old", MOVED)
def test_what_was_moved_is_where_the_table_says(old):
    module, _, name = MOVED[old].rpartition(".")
    if MOVED[old].startswith("yinggem.training.streaming"):
        pytest.importorskip("litdata")
    assert callable(getattr(importlib.import_module(module), name))
    assert name == old.rpartition(".")[2]  # a callback's class name is its key in a checkpoint


def test_targets_alone_are_changed_at_any_depth():
    old = {
        "a": [{"_target_": "yinggem.averaging.EMA", "text": "yinggem.averaging.EMA"}],
        "_target_": "mylab.Own",
        "n": 1,
    }
    new = {
        "a": [{"_target_": MOVED["yinggem.averaging.EMA"], "text": "yinggem.averaging.EMA"}],
        "_target_": "mylab.Own",
    }
    assert with_present_names(old) == new | {"n": 1}
