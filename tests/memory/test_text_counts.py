"""What the text's counts say: Kneser-Ney as dictionaries count it, for a row of tokens and for all ids at once."""

import numpy as np
import pytest
from references import kneser_ney

from yinggem.memory.index import build_index, longest_ngram
from yinggem.memory.text_counts import TextCounts

SIZES = [(5, 400), (65, 900), (300, 600), (50257, 300)]


def text_of(vocab_size: int, count: int) -> np.ndarray:
    """Ids with stretches that come again and again."""
    draw = np.random.default_rng(count)
    phrases = [draw.integers(min(vocab_size, 40), size=draw.integers(1, 7)) for _ in range(20)]
    return np.concatenate([phrases[draw.integers(20)] for _ in range(count)])[:count].astype(np.uint16)


@pytest.mark.parametrize(("vocab_size", "count"), SIZES)
def test_probabilities_are_those_of_a_naive_count(vocab_size, count):
    ids = text_of(vocab_size, count)
    counts, longest = TextCounts(build_index(ids, vocab_size)), longest_ngram(vocab_size)
    rows = np.stack([ids[7:24], np.roll(ids, 3)[40:57], np.full(17, vocab_size - 1, np.uint16)])
    found, _ = counts.score(rows)
    for row, line in zip(rows.tolist(), found, strict=True):
        for order in range(longest):
            contexts = [row[max(0, t + 1 - order) : t + 1] for t in range(16)]
            naive = [
                kneser_ney(ids.tolist(), vocab_size, longest, context, row[t + 1])
                for t, context in [*enumerate(contexts)][::3]
            ]
            assert line[::3, order] == pytest.approx(naive, rel=1e-6)


@pytest.mark.parametrize(("vocab_size", "count"), SIZES)
def test_the_probabilities_of_all_ids_sum_to_one_and_none_is_zero(vocab_size, count):
    ids = text_of(vocab_size, count)
    counts = TextCounts(build_index(ids, vocab_size))
    row = np.concatenate([ids[50:70], [vocab_size - 1], ids[3:9]])
    scored, features = counts.score(row[None])
    for end in range(1, len(row)):
        everything, about = counts.distribution(row[:end])
        assert everything.sum(0) == pytest.approx(1, abs=1e-6) and everything.min() > 0
        assert everything[row[end]] == pytest.approx(scored[0, end - 1], rel=1e-9)
        assert about == pytest.approx(features[0, end - 1])


def test_no_token_changes_an_earlier_probability():
    ids = text_of(65, 900)
    counts, row = TextCounts(build_index(ids, 65)), ids[100:160].copy()
    before, known = counts.score(row[None])
    row[30] = 64
    after, now = counts.score(row[None])
    assert np.array_equal(before[0, :29], after[0, :29]) and np.array_equal(known[0, :30], now[0, :30])


@pytest.mark.parametrize("length", [1, 2, 3, 9])
def test_rows_may_be_shorter_than_the_longest_ngram(length):
    ids = text_of(65, 900)
    counts = TextCounts(build_index(ids, 65))
    whole, _ = counts.score(ids[None, :20])
    part, _ = counts.score(ids[None, : length + 1])
    assert np.array_equal(whole[:, :length], part)
