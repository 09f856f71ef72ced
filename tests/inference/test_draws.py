"""The random numbers against the known answers of their authors and numpy's; the draw against its definition."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from yinggem.inference.draws import draw, philox, uniform

# kat_vectors of Random123: counter, key, result
ANSWERS = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]


@pytest.mark.parametrize("answer", ANSWERS, ids=range(3))
def test_the_words_are_those_that_the_authors_publish(answer):
    (a, b, c, d), (left, right), words = ([int(word, 16) for word in part.split()] for part in answer)
    assert [*philox((a, b, c, d), (left, right))] == words


@given(st.integers(0, (1 << 64) - 1), st.integers(0, (1 << 64) - 1))
def test_a_number_comes_from_seed_and_position_in_all_their_bits(seed, position):
    number = uniform(seed, position)
    assert 0 <= number < 1 and number == uniform(seed - (1 << 64), position)
    first, second, *_ = philox((position % 2**32, position >> 32, 0, 0), (seed % 2**32, seed >> 32))
    high, low = first >> 5, second >> 6  # 27 and 26 bits
    assert number == (high * 2**26 + low) / 2**53


def test_numbers_are_spread_evenly_and_neighbours_differ():
    numbers = np.array([[uniform(seed, position) for position in range(200)] for seed in range(100)])
    counts = np.histogram(numbers, 20, (0, 1))[0]
    assert (np.abs(counts - 1000) < 4.5 * np.sqrt(1000)).all()
    assert len(np.unique(numbers)) == numbers.size
    for shifted in (numbers[1:, :] * numbers[:-1, :], numbers[:, 1:] * numbers[:, :-1]):  # independent: mean 1 / 4
        assert abs(shifted.mean() - 0.25) < 4.5 * 0.22 / np.sqrt(shifted.size)


@given(st.lists(st.none() | st.floats(-30, 30), min_size=1, max_size=20), st.floats(0, 1, exclude_max=True))
def test_a_draw_is_the_first_id_whose_cumulative_probability_exceeds_the_number(logits, number):
    logits = [-np.inf if value is None else value for value in logits]
    if max(logits) == -np.inf:
        logits[0] = 0.0
    weights = [np.exp(value - max(logits)) for value in logits]
    token = draw(np.array(logits), number)
    assert weights[token] > 0
    assert sum(weights[:token]) <= number * sum(weights) * (1 + 1e-12)
    assert sum(weights[: token + 1]) >= number * sum(weights) * (1 - 1e-12)


def test_the_ends_of_the_range_draw_the_first_and_the_last_that_may_be():
    logits = np.array([-np.inf, 0.0, -np.inf, 1.0, -np.inf], np.float32)
    assert draw(logits, 0.0) == 1 and draw(logits, np.nextafter(1.0, 0.0)) == 3
