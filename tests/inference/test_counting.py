"""Network, counting and both on the same tokens: each is the sum of its own predictions, none sees what follows."""

import math
from dataclasses import replace

import numpy as np
import pytest
from references import kneser_ney, witten_bell

from yinggem.common.errors import UserError
from yinggem.inference.counting import evaluate_with_counting
from yinggem.inference.evaluation import evaluate
from yinggem.memory.index import longest_ngram
from yinggem.memory.mixture import linear
from yinggem.memory.ngram_memory import NgramMemory, mixed, window_orders

BYTES = np.ones(256, np.uint16)


@pytest.fixture
def memory(tmp_path) -> NgramMemory:
    return NgramMemory(ids_of("Shall I compare thee to a summer's day?\n" * 20), 256, cache_dir=tmp_path)


def ids_of(text: str) -> np.ndarray:
    return np.frombuffer(text.encode(), np.uint8)


def test_the_network_has_the_figures_of_its_own_evaluation(model, memory):
    ids = ids_of("Thou art more lovely and more temperate:\n" * 3)
    found = evaluate_with_counting(model, ids, BYTES, 16, 3, memory)
    alone = evaluate(model, ids, BYTES, 16, 3)
    assert found.network.nats == pytest.approx(alone.nats, rel=1e-6) and found.network.bytes == alone.bytes
    assert found.counting.tokens == found.together.tokens == len(ids) - 1
    bits = found.counting.nats / math.log(2) / found.counting.bytes
    assert found.to_dict()["counting_bits_per_byte"] == pytest.approx(bits)


@pytest.mark.slow
@pytest.mark.parametrize("adaptive", [False, True])
def test_counting_is_what_naive_counts_say_in_the_same_windows(model, memory, adaptive):
    """By a gate that believes two of the sources, of which there are naive counts."""
    ids, length = ids_of("Shall I compare the summer's day to thee?\nShall I compare?"), 16
    memory = replace(memory, scoring=linear(*mixed(256)))
    found = evaluate_with_counting(model, ids, BYTES, length, 2, memory, adaptive)
    longest, nats = longest_ngram(256), 0.0
    for place in range(1, len(ids)):
        start = (place - 1) // length * length
        known = memory.reading_on(ids[: start + 1]) if adaptive and start else memory
        text, before, token = known.ids.tolist(), ids[start:place].tolist(), int(ids[place])
        orders = window_orders(256)
        counted = [kneser_ney(text, 256, longest, before, token), witten_bell(before, before, 256, orders, token)]
        _, features = known.sources(ids[start : place + 1][None].astype(np.int64))
        weights = memory.scoring.weights(features[0, -1], network=False)
        nats -= math.log(float(weights[1:3] @ counted))
    assert found.counting.nats == pytest.approx(nats, rel=1e-6)


def test_reading_on_helps_where_a_text_repeats_itself(model, memory):
    ids = ids_of("".join(f"{k} bottles of beer on the wall, " for k in range(99, 60, -1)))
    windows, adaptive = (evaluate_with_counting(model, ids, BYTES, 32, 4, memory, how) for how in (False, True))
    assert adaptive.counting.nats < 0.7 * windows.counting.nats
    assert adaptive.network.nats == pytest.approx(windows.network.nats)


def test_nothing_to_predict_and_too_much_to_count_are_refused(model, memory, monkeypatch):
    with pytest.raises(UserError, match="nothing to predict"):
        evaluate_with_counting(model, ids_of("a"), BYTES, 8, 1, memory)
    monkeypatch.setattr("yinggem.inference.counting.MOST_ADAPTIVE", 10)
    with pytest.raises(UserError, match="--adaptive"):
        evaluate_with_counting(model, ids_of("a" * 11), BYTES, 8, 1, memory, adaptive=True)
