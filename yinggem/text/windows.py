"""Token ids -> windows: which tokens are read and which are predicted, in training and in an evaluation.

A window of `length` targets that starts at token s reads tokens s .. s + length - 1 and predicts s + 1 .. s + length.
"""

from collections.abc import Sequence

import numpy as np

from yinggem.text.token_array import TokenArray

Ids = np.ndarray | TokenArray  # (N,) integers
Window = tuple[int, int]  # first input token, number of targets


def training_windows(tokens: int, length: int, seed: int, epoch: int) -> np.ndarray:
    """Starts (n,) of one epoch's windows, shuffled; both phase and order depend on (seed, epoch) alone.

    n = (tokens - 1) // length in every epoch. Where the phase leaves room for one window fewer, the missing one is the
    first of the text, so that what lies before the phase is trained on as well.
    """
    generator = np.random.default_rng((seed, epoch))
    count = (tokens - 1) // length
    starts = np.arange(generator.integers(length), tokens - length, length)
    if len(starts) < count:
        starts = np.append(starts, 0)
    return generator.permutation(starts[:count])


def evaluation_windows(tokens: int, length: int) -> list[Window]:
    """Consecutive windows that predict every token after the first exactly once; the last may be short."""
    return [(start, min(length, tokens - 1 - start)) for start in range(0, tokens - 1, length)]


def evaluation_batches(tokens: int, length: int, batch_size: int) -> list[list[Window]]:
    """`evaluation_windows` in batches of windows of one length: a short last window is a batch of its own."""
    windows = evaluation_windows(tokens, length)
    full = [window for window in windows if window[1] == length]
    batches = [full[start : start + batch_size] for start in range(0, len(full), batch_size)]
    return batches + [[window] for window in windows[len(full) :]]


def cut_windows(ids: Ids, windows: Sequence[Window]) -> np.ndarray:
    """The tokens of windows of one length T: (B, T + 1) int64, inputs [:, :-1] and targets [:, 1:]; (0, 1) of none."""
    block = np.empty((len(windows), windows[0][1] + 1 if windows else 1), np.int64)
    for row, (start, length) in zip(block, windows, strict=True):
        row[:] = ids[start : start + length + 1]
    return block
