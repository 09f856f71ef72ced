"""What the tokens read so far say of the next one: counts that grow with every token of a window."""

from collections.abc import Sequence

import numpy as np

SUMMARY = 3  # features: of the longest context seen before


def score_windows(
    rows: np.ndarray, vocab_size: int, orders: Sequence[int], counted: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities (B, T, S) of rows[:, 1:] by what stands before in each of `rows` (B, T + 1) alone.

    Witten and Bell's estimate (1991, method C), from the shortest context to the longest: what is new after a context
    is as likely as there have been different tokens after it,

        P(w | context) = (c(context w) + n P(w | the next shorter context)) / (c(context) + n)

    with n different tokens among the c(context) that followed. It begins with the same probability for every id.

    Args:
        orders: (S,) tokens of the contexts that are looked at, from 0 upwards.
        counted: (B,) how many tokens of each row are counted, its first; None: all.

    Returns:
        The probabilities for contexts of at most so many tokens, and features (B, T, SUMMARY + 2 S) that do not depend
        on the token they are asked about: the length of the longest context seen before (tokens), the log of how often,
        and of how many different tokens followed it; then for each of `orders` the logs of 1 + how often and of
        1 + how many.
    """
    (batch, width), total = rows.shape, rows.size
    column = np.broadcast_to(np.arange(width), rows.shape).ravel()
    token = rows.ravel().astype(np.int64)
    counts = np.ones(total, bool) if counted is None else column < np.repeat(counted, width)
    context = np.repeat(np.arange(batch), width)  # a number for every different context, first the row alone
    probability, features = np.empty((total, len(orders))), np.zeros((total, SUMMARY + 2 * len(orders)))
    shorter, place = np.full(total, 1 / vocab_size), 0
    for order in range(orders[-1] + 1):
        if order:
            before = np.concatenate([np.zeros(order, np.int64), token[:-order]])[:total]
            context = _numbered(context * vocab_size + before)
        real = column >= order
        context = np.where(real, context, context.max() + 1 + np.arange(total))  # what begins in another row is unseen
        if order != orders[place]:
            continue
        seen, found = _earlier(context, counts), _earlier(context * vocab_size + token, counts)
        different = _earlier(context, counts & (found == 0))
        known = real & (seen > 0)
        shorter = np.where(known, (found + different * shorter) / np.maximum(seen + different, 1), shorter)
        probability[:, place] = shorter
        seen, different = seen[known], different[known]
        features[known, :SUMMARY] = np.stack([np.full(len(seen), order), np.log(seen), np.log(different)], -1)
        features[known, SUMMARY + 2 * place : SUMMARY + 2 * place + 2] = np.log1p(np.stack([seen, different], -1))
        place += 1
    return probability.reshape(batch, width, -1)[:, 1:], features.reshape(batch, width, -1)[:, 1:]


def window_distribution(
    counted: np.ndarray, context: np.ndarray, vocab_size: int, orders: Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities (V, S) of every id after `context` (N,), by what followed its last tokens in `counted` (M,).

    As `score_windows`, which counts the context itself: then both are the same tokens. Numbers from `vocab_size` on in
    `counted` stand for tokens that are not to be counted, and end the contexts around them.
    """
    probability, features = np.full((len(orders), vocab_size), 1 / vocab_size), np.zeros(SUMMARY + 2 * len(orders))
    places, place = np.flatnonzero(counted < vocab_size), 0  # of tokens that follow the last `order` of the context
    for order in range(min(orders[-1], len(context)) + 1):
        if order:
            places = places[places >= order]
            places = places[counted[places - order] == context[-order]]
        if not len(places):
            break
        if order != orders[place]:
            continue
        counts, shorter = np.bincount(counted[places], minlength=vocab_size), probability[max(0, place - 1)]
        seen, different = len(places), np.count_nonzero(counts)
        probability[place:] = (counts + different * shorter) / (seen + different)
        features[:SUMMARY] = order, np.log(seen), np.log(different)
        features[SUMMARY + 2 * place : SUMMARY + 2 * place + 2] = np.log1p(seen), np.log1p(different)
        place += 1
    return probability.T, features


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
