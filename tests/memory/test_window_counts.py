"""What the window's counts say: Witten and Bell as lists count it, from what stands before and nothing else."""

import numpy as np
import pytest
from references import witten_bell

from yinggem.memory.window_counts import score_windows, window_distribution

ORDERS = (0, 1, 2, 4, 7)


def rows_of(vocab_size: int, shape: tuple[int, int], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(min(vocab_size, 6), size=shape)


@pytest.mark.parametrize("vocab_size", [6, 50257])
@pytest.mark.parametrize("orders", [(0,), (0, 1), (0, 1, 2, 3, 4), (0, 2, 3, 6)])
def test_probabilities_are_those_of_a_naive_count(vocab_size, orders):
    rows = rows_of(vocab_size, (3, 40))
    found, features = score_windows(rows, vocab_size, orders)
    for row, line, about in zip(rows.tolist(), found, features, strict=True):
        for end in range(1, 40):
            parts = [orders[: count + 1] for count in range(len(orders))]
            naive = [witten_bell(row[:end], row[:end], vocab_size, part, row[end]) for part in parts]
            assert line[end - 1] == pytest.approx(naive)
            everything, seen = window_distribution(np.array(row[:end]), np.array(row[:end]), vocab_size, orders)
            assert everything.sum(0) == pytest.approx(1) and everything.min() > 0
            assert everything[row[end]] == pytest.approx(naive)
            assert about[end - 1] == pytest.approx(seen)


def test_only_the_first_tokens_of_a_row_are_counted_where_that_is_said():
    rows, typed = rows_of(6, (4, 30)), np.array([0, 3, 12, 30])
    found, _ = score_windows(rows, 6, (0, 1, 2, 3), typed)
    for row, line, count in zip(rows.tolist(), found, typed, strict=True):
        naive = [witten_bell(row[: min(end, count)], row[:end], 6, (0, 1, 2, 3), row[end]) for end in range(1, 30)]
        assert line[:, -1] == pytest.approx(naive)


def test_rows_and_later_tokens_do_not_matter():
    rows = rows_of(6, (5, 60))
    together, about = score_windows(rows, 6, ORDERS)
    for number, row in enumerate(rows):
        alone, seen = score_windows(row[None], 6, ORDERS)
        assert np.array_equal(alone[0], together[number]) and np.array_equal(seen[0], about[number])
    rows[2, 40] = 5 - rows[2, 40]
    changed, _ = score_windows(rows, 6, ORDERS)
    assert np.array_equal(changed[:, :39], together[:, :39])
    assert not np.array_equal(changed[2, 39:], together[2, 39:])
