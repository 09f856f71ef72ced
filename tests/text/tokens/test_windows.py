"""Windows: which tokens are read and predicted, straight from the definitions."""

import numpy as np
import pytest

from yinggem.text.tokens.token_array import TokenArray
from yinggem.text.tokens.windows import cut_windows, evaluation_batches, evaluation_windows, training_windows


@pytest.mark.parametrize("tokens", [18, 33, 100, 1001])
def test_training_predicts_every_token_about_once_an_epoch(tokens):
    length, total = 16, np.zeros(tokens)
    sizes = set()
    for epoch in range(200):
        starts = training_windows(tokens, length, seed=1, epoch=epoch)
        sizes.add(len(starts))
        seen = np.zeros(tokens, int)
        for start in starts:
            seen[start + 1 : start + length + 1] += 1
        assert starts.min() >= 0 and starts.max() + length < tokens and seen.max() <= 2
        total += seen
    assert sizes == {(tokens - 1) // length}
    assert (total[1:] > 0).all()


def test_windows_depend_on_seed_and_epoch_alone():
    same = training_windows(5000, 16, seed=1, epoch=2)
    assert (same == training_windows(5000, 16, seed=1, epoch=2)).all()
    for other in (training_windows(5000, 16, 1, 3), training_windows(5000, 16, 2, 2)):
        assert not np.array_equal(same, other)


@pytest.mark.parametrize("tokens", [2, 3, 16, 17, 18, 33, 100, 1001])
@pytest.mark.parametrize("length", [1, 2, 16, 50])
def test_an_evaluation_predicts_every_token_after_the_first_exactly_once(tokens, length):
    seen = np.zeros(tokens, int)
    batches = evaluation_batches(tokens, length, 4)
    for windows in batches:
        block = cut_windows(np.arange(tokens), windows)
        assert 0 < block.shape[0] <= 4 and block.shape[1] <= length + 1
        assert (block[:, 1:] == block[:, :-1] + 1).all()
        np.add.at(seen, block[:, 1:].ravel(), 1)
    assert seen[0] == 0 and (seen[1:] == 1).all()
    assert [window for batch in batches for window in batch] == evaluation_windows(tokens, length)


def test_windows_are_cut_across_the_pieces_of_a_text():
    ids = TokenArray([np.arange(5, dtype=np.uint16), np.arange(5, 12, dtype=np.uint16)], np.dtype(np.uint16))
    block = cut_windows(ids, [(0, 3), (3, 3), (8, 3)])
    assert block.dtype == np.int64 and block.tolist() == [[0, 1, 2, 3], [3, 4, 5, 6], [8, 9, 10, 11]]
    assert cut_windows(ids, []).shape == (0, 1)
