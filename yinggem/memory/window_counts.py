"""What the tokens read so far say of the next one: counts that grow with every token of a window."""

import numpy as np

FEATURES = 3  # longest context seen before (tokens), log of how often, log of how many different tokens followed it


def score_windows(
    rows: np.ndarray, vocab_size: int, longest: int, counted: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities (B, T) of rows[:, 1:] by what stands before in each of `rows` (B, T + 1) alone.

    Witten and Bell's estimate (1991, method C), from the shortest context to the longest of `longest` tokens: what is
    new after a context is as likely as there have been different tokens after it,

        P(w | context) = (c(context w) + n P(w | context without its first token)) / (c(context) + n)

    with n different tokens among the c(context) that followed. It begins with the same probability for every id.

    Args:
        longest: tokens of the longest context.
        counted: (B,) how many tokens of each row are counted, its first; None: all.

    Returns:
        The probabilities, and features (B, T, FEATURES) that do not depend on the token they are asked about.
    """
    (batch, width), total = rows.shape, rows.size
    column = np.broadcast_to(np.arange(width), rows.shape).ravel()
    token = rows.ravel().astype(np.int64)
    counts = np.ones(total, bool) if counted is None else column < np.repeat(counted, width)
    context = np.repeat(np.arange(batch), width)  # a number for every different context, first the row alone
    probability, features = np.full(total, 1 / vocab_size), np.zeros((total, FEATURES))
    for order in range(longest + 1):
        if order:
            before = np.concatenate([np.zeros(order, np.int64), token[:-order]])[:total]
            context = _numbered(context * vocab_size + before)
        real = column >= order
        context = np.where(real, context, context.max() + 1 + np.arange(total))  # what begins in another row is unseen
        seen, found = _earlier(context, counts), _earlier(context * vocab_size + token, counts)
        different = _earlier(context, counts & (found == 0))
        known = real & (seen > 0)
        probability = np.where(known, (found + different * probability) / np.maximum(seen + different, 1), probability)
        logs = np.log(np.maximum(seen, 1)), np.log(np.maximum(different, 1))
        features = np.where(known[:, None], np.stack([np.full(total, float(order)), *logs], -1), features)
    shape = batch, width
    return probability.reshape(shape)[:, 1:], features.reshape(*shape, FEATURES)[:, 1:]


def window_distribution(
    counted: np.ndarray, context: np.ndarray, vocab_size: int, longest: int
) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities (V,) of every id after `context` (N,), by what followed its last tokens in `counted` (M,).

    As `score_windows`, which counts the context itself: then both are the same tokens. Numbers from `vocab_size` on in
    `counted` stand for tokens that are not to be counted, and end the contexts around them.
    """
    probability, features = np.full(vocab_size, 1 / vocab_size), np.zeros(FEATURES)
    places = np.flatnonzero(counted < vocab_size)  # of tokens that follow the last `order` tokens of the context
    for order in range(min(longest, len(context)) + 1):
        if order:
            places = places[places >= order]
            places = places[counted[places - order] == context[-order]]
        if not len(places):
            break
        counts = np.bincount(counted[places], minlength=vocab_size)
        different = np.count_nonzero(counts)
        probability = (counts + different * probability) / (len(places) + different)
        features = np.array([order, np.log(len(places)), np.log(different)])
    return probability, features


def _numbered(keys: np.ndarray) -> np.ndarray:
    """Small numbers in place of keys, the same for the same key."""
    numbers: np.ndarray = np.unique(keys, return_inverse=True)[1]
    return numbers


def _earlier(keys: np.ndarray, marks: np.ndarray) -> np.ndarray:
    """How many marked places with the same key there are before each place."""
    order = np.argsort(keys, kind="stable")
    grouped, marked = keys[order], marks[order].astype(np.int64)
    starts = np.flatnonzero(np.concatenate([[True], grouped[1:] != grouped[:-1]]))
    sums = np.cumsum(marked) - marked
    sums -= np.repeat(sums[starts], np.diff(np.append(starts, len(keys))))
    result = np.empty(len(keys), np.int64)
    result[order] = sums
    return result
