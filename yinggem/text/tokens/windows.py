"""Token ids -> windows: which tokens are read and which are predicted, in training and in an evaluation.

A window of `length` targets that starts at token s reads tokens s .. s + length - 1 and predicts s + 1 .. s + length.
"""

from collections.abc import Sequence

import numpy as np

from yinggem.text.tokens.token_array import TokenArray

Ids = np.ndarray | TokenArray  # (N,) integers
Window = tuple[int, int]  # first input token, number of targets
LOOK_BACK = 1 << 12  # tokens that are searched at once for a mark before a window


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


def counted_targets(ids: Ids, windows: Sequence[Window], rows: np.ndarray) -> np.ndarray | None:
    """Which targets rows[:, 1:] of `cut_windows` are counted, (B, T) booleans; None: all are.

    Of a text of pairs it is those between the turn and the end of a document, the end included. Where a window begins
    within a document, what stands before it in `ids` decides.
    """
    turns = getattr(ids, "turns", None)
    if turns is None:
        return None
    end, turn = turns
    places = np.where((rows == end) | (rows == turn), np.arange(rows.shape[1]), -1)
    last = np.maximum.accumulate(places, axis=1)[:, :-1]  # where the last mark stands, up to each input
    within = np.take_along_axis(rows, np.maximum(last, 0), axis=1) == turn
    before = np.array([_is_in_completion(ids, start, end, turn) for start, _ in windows], bool)
    return np.where(last < 0, before[:, None], within)


def _is_in_completion(ids: Ids, start: int, end: int, turn: int) -> bool:
    """Whether the last mark before a place is a turn."""
    while start > 0:
        block = ids[max(0, start - LOOK_BACK) : start]
        marks = np.flatnonzero((block == end) | (block == turn))
        if len(marks):
            return bool(block[marks[-1]] == turn)
        start -= LOOK_BACK
    return False
