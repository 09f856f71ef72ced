"""A run with a memory: what it trains on, what its checkpoints hold, and the same bits when it is continued."""

import json
from typing import Any

import numpy as np
import pytest
from running import SMALL, TEXT, here, newest, same, soaked

from yinggem.callbacks.ngram_memory import MOST_HELD_OUT, Memory
from yinggem.common.errors import UserError
from yinggem.inference.checkpoint import read_checkpoint
from yinggem.inference.files.stored_model import read_model
from yinggem.memory.mixture import fixed
from yinggem.memory.ngram_memory import mixed

FIXED = fixed(*mixed(256)).to_dict()
RUN = [
    *SMALL, "data.path=own.txt", "baseline=true", "memory=ngram", "memory.held_out=0.3", "trainer.log_every_n_steps=1",
]  # fmt: skip


@pytest.fixture
def place(tmp_path, monkeypatch):
    (tmp_path / "own.txt").write_text(TEXT)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
def test_a_run_says_what_counting_reaches_and_its_checkpoints_hold_the_text(place):
    done = here(*RUN, "trainer.max_steps=20", "trainer.val_check_interval=8")
    assert done.status == 0 and "without a network, both together" in done.out, done
    assert "The checkpoint holds the training text" in done.out and " 4,175 tokens to train on" in done.out
    result = json.loads((newest() / "result.json").read_text())
    assert result["counting_bits_per_byte"] < result["bits_per_byte"] and result["counted_tokens"] == 5964
    memory = read_model(newest() / "checkpoints" / "best.ckpt").memory
    assert memory is not None and bytes(memory.ids) == TEXT.encode()[:5964]
    assert memory.scoring.to_dict() != FIXED != memory.generating.to_dict()
    before = read_model(newest() / "checkpoints" / "last.ckpt").memory
    assert before is not None and before.scoring.to_dict() not in (FIXED, memory.scoring.to_dict()), "fitted at the end"
    ranked = [entry for entry in result if entry.endswith("bits_per_byte")]
    assert ranked[0] == "bits_per_byte", "the network's own figure is what runs are ranked by"


@pytest.mark.slow
def test_without_a_memory_the_figures_stand_beside_those_of_the_network_and_can_be_left_out(place):
    done = here(*SMALL, "data.path=own.txt", "baseline=true")
    assert done.status == 0 and "without a network" in done.out and "holds the training text" not in done.out, done
    assert read_model(newest() / "checkpoints" / "best.ckpt").memory is None
    assert "memory" not in read_checkpoint(newest() / "checkpoints" / "last.ckpt")
    for memory in ("none", "ngram"):
        done = here(*SMALL, "data.path=own.txt", f"memory={memory}")
        assert done.status == 0 and "without a network" not in done.out, "experiment=smoke is for seconds"


@pytest.mark.slow
@pytest.mark.parametrize("stop", soaked([7, 13], [7]))
def test_continued_it_ends_with_the_bits_of_a_straight_run(place, stop):
    def ends(outputs: str) -> list:
        return [read_checkpoint(newest(outputs) / "checkpoints" / f"{name}.ckpt") for name in ("last", "best")]

    settings = [*RUN, "scheduler=constant", "model.dropout=0.1", "trainer.val_check_interval=5"]
    assert here(*settings, "trainer.max_steps=23", "outputs=straight").status == 0
    assert here(*settings, f"trainer.max_steps={stop}").status == 0
    assert here("ckpt_path=last", "trainer.max_steps=23").status == 0
    for one, other in zip(ends("straight"), ends("outputs"), strict=True):
        assert one["global_step"] == other["global_step"] and same(one["state_dict"], other["state_dict"])
        assert same(one["memory"], other["memory"])


@pytest.mark.slow
def test_the_slice_of_the_fit_is_the_end_of_the_training_split_and_never_trained_on(place):
    changed = TEXT[:5000] + TEXT[5000:5964].translate(str.maketrans("0123456789", "5678901234")) + TEXT[5964:]
    (place / "other.txt").write_text(changed)
    for name in ("own", "other"):
        done = here(*RUN, f"data.path={name}.txt", "trainer.max_steps=10", f"outputs={name}")
        assert done.status == 0, done
    one, other = (read_checkpoint(newest(name) / "checkpoints" / "last.ckpt") for name in ("own", "other"))
    assert same(one["state_dict"], other["state_dict"]) and not same(one["memory"], other["memory"])


@pytest.mark.slow
def test_a_text_too_short_for_a_fit_has_fixed_weights_and_one_too_long_is_counted_in_part(place, monkeypatch):
    monkeypatch.setattr("yinggem.memory.ngram_memory.COUNTED_TOKENS", 3000)
    done = here(*SMALL, "data.path=own.txt", "baseline=true", "memory=ngram", "trainer.max_steps=10")
    assert "too few to fit how much the memory is believed" in done.out
    assert done.status == 0 and " 5,964 tokens to train on" in done.out, done
    assert "(of its last 3,000 tokens)" in done.out and "The checkpoint holds the training text" in done.out
    memory = read_model(newest() / "checkpoints" / "best.ckpt").memory
    assert memory is not None and len(memory.ids) == 5964 and len(memory.counts.index.ids) == 3000
    assert memory is not None and memory.scoring.to_dict() == FIXED


def test_how_much_is_held_out():
    assert Memory(0.02).tokens_held_out(100_000) == 2000 and Memory(0.02).tokens_held_out(10**9) == MOST_HELD_OUT
    assert Memory(0.02).tokens_held_out(1000) == 0 and Memory(0).tokens_held_out(10**9) == 0
    wrong: Any
    for wrong in (0.6, -1, "x", np.nan):
        with pytest.raises(UserError, match=r"memory\.held_out"):
            Memory(wrong)
