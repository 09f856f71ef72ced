"""Marks: how many stand before a place, and where, as a plain count finds them."""

import numpy as np
import pytest

from yinggem.memory.marks import BLOCK, Marks


@pytest.mark.parametrize("size", [1, 63, 64, 65, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 7])
@pytest.mark.parametrize("share", [0.02, 0.6])
def test_what_stands_before_each_place_is_a_plain_count(size, share):
    draw = np.random.default_rng(size)
    sizes = np.where(draw.random(size) < share, draw.integers(4, size=size), 0)
    beside = draw.random(size) < share
    marks, places = Marks.of(sizes, beside), np.arange(size + 1)
    kinds = [np.isin(sizes, wanted) for wanted in ((1, 3), (2, 3), (3,))]
    naive = np.stack([np.concatenate([[0], np.cumsum(kind)]) for kind in (*kinds, beside)], -1)
    assert np.array_equal(marks.before(places), naive) and np.array_equal(marks.marked(places), naive[:, 3])
    assert np.array_equal(Marks.of(sizes).before(places), naive[:, :3])
    assert marks.size >= size and marks.nbytes < 1.2 * (3 * marks.size / 8 + 64)
    for first, last in ((0, size), (size // 3, size // 2 + 1), (size // 2, size // 2)):
        assert marks.sized(first, last).tolist() == [k for k in range(first, last) if sizes[k]]


def test_no_places_have_no_marks():
    assert Marks.of(np.zeros(5, np.uint8)).before(np.zeros(0, np.int64)).shape == (0, 3)
