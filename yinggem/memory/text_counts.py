"""What the training text says of the next token: interpolated Kneser-Ney smoothing over its n-grams."""

from collections.abc import Callable
from functools import cached_property, lru_cache

import numpy as np

from yinggem.memory.index import NgramIndex

REMEMBERED = 4096  # contexts
SUMMARY = 3  # features: of the longest context found


class TextCounts:
    """Probabilities of the token that follows, from the counts of a text.

    With the discount D(c) of a count, and from contexts that are longer by one token each time (Chen and Goodman 1998,
    equation 25):

        P(w | context) = (max(c(context w) - D, 0) + sum of D * P(w | context without its first token)) / c(context)

    which begins with the same probability for every id. A context that the text does not have changes nothing.

    What contexts of so many tokens say, from 0 to `longest` - 1, are `sources`. Features of a context: the length of
    its longest end that was found (tokens), the log of that one's count, and of how many different tokens follow it;
    then for every length from 1 on the logs of 1 + its count and of 1 + how many different tokens follow it.
    """

    def __init__(self, index: NgramIndex) -> None:
        self.index, self.sources = index, index.longest
        self.features = SUMMARY + 2 * (index.longest - 1)

    @cached_property
    def alone(self) -> tuple[np.ndarray, np.ndarray]:
        """Probabilities (V,) after no context, and their features."""
        index = self.index
        counts, discounts = index.alone.astype(np.int64), index.discounts[0]
        total, taken = counts.sum(), discounts[np.minimum(counts, 3)]
        probability = (np.maximum(counts - taken, 0) + taken.sum() / index.vocab_size) / total
        features = np.zeros(self.features)
        features[:SUMMARY] = 0, np.log(total), np.log(np.count_nonzero(counts))
        return probability, features

    def score(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Probabilities (B, T, sources) of rows[:, 1:] after what stands before in each of `rows` (B, T + 1), and
        features (B, T, features) of the contexts, which do not depend on the token they are asked about.
        """
        rows, (batch, length) = rows.astype(np.int64), (rows.shape[0], rows.shape[1] - 1)
        ranges, (alone, about) = self.index.ranges(rows), self.alone
        probability = np.repeat(alone[rows[:, 1:], None], self.sources, -1)
        features = np.broadcast_to(about, (batch, length, self.features)).copy()
        for order in range(1, len(ranges)):  # tokens of the context
            contexts, grams = (np.stack(ranges[size - 1]) for size in (order, order + 1))
            contexts = contexts[:, :, :-1]
            known = contexts[0] < contexts[1]
            totals, kinds = self.index.continued(order + 1, *contexts[:, known])
            counts, discounts = self.index.counts(order + 1, *grams[:, known]), self.index.discounts[order]
            own = np.maximum(counts - discounts[np.minimum(counts, 3)], 0)
            shorter, different = probability[:, order - 1 :, order - 1][known], kinds.sum(-1)
            found = (own + kinds @ discounts[1:] * shorter) / totals
            probability[:, order - 1 :, order:][known] = found[:, None]  # of longer ones too, until they are found
            here = features[:, order - 1 :]
            here[..., :SUMMARY][known] = np.stack([np.full(len(totals), order), np.log(totals), np.log(different)], -1)
            place = slice(SUMMARY + 2 * (order - 1), SUMMARY + 2 * order)
            here[..., place][known] = np.stack([np.log1p(totals), np.log1p(different)], -1)
        return probability, features

    def distribution(self, context: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Probabilities (V, sources) of every id after `context` (N,), of which the last few count, and features."""
        alone, about = self.alone
        probability, features = np.repeat(alone[None], self.sources, 0), about.copy()
        known = context[max(0, len(context) - self.index.longest + 1) :].tolist()
        for order in range(1, len(known) + 1):
            found = self._after(tuple(known[len(known) - order :]))
            if found is None:
                break  # longer contexts end with this one, and so are not in the text either
            ids, own, left, total, different = found
            mixed = probability[order - 1] * left
            mixed[ids] += own
            probability[order:] = mixed
            features[:SUMMARY] = order, np.log(total), np.log(different)
            features[SUMMARY + 2 * (order - 1) : SUMMARY + 2 * order] = np.log1p(total), np.log1p(different)
        return probability.T, features

    @cached_property
    def _after(self) -> Callable[[tuple[int, ...]], tuple[np.ndarray, np.ndarray, float, int, int] | None]:
        """After a context: the ids that follow it, their share, what is left to others, how often, how many ids.

        It remembers the contexts of a text that is being written: short ones come again and again.
        """
        return lru_cache(REMEMBERED)(self._look_up)

    def _look_up(self, context: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray, float, int, int] | None:
        first, end = self.index.find(context)
        if first == end:
            return None
        ids, counts = self.index.continuing(len(context) + 1, first, end)
        discounts, total = self.index.discounts[len(context)], counts.sum()
        taken = discounts[np.minimum(counts, 3)]
        return ids, np.maximum(counts - taken, 0) / total, float(taken.sum() / total), int(total), len(ids)
