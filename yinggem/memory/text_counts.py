"""What the training text says of the next token: interpolated Kneser-Ney smoothing over its n-grams."""

from functools import cached_property

import numpy as np

from yinggem.memory.index import NgramIndex


class TextCounts:
    """Probabilities of the token that follows, from the counts of a text.

    With the discount D(c) of a count, and from contexts that are longer by one token each time (Chen and Goodman 1998,
    equation 25):

        P(w | context) = (max(c(context w) - D, 0) + sum of D * P(w | context without its first token)) / c(context)

    which begins with the same probability for every id. A context that the text does not have changes nothing.
    """

    FEATURES = 3  # longest context found (tokens), log of its count, log of how many different tokens follow it

    def __init__(self, index: NgramIndex) -> None:
        self.index = index

    @cached_property
    def alone(self) -> tuple[np.ndarray, np.ndarray]:
        """Probabilities (V,) after no context, and their features."""
        index = self.index
        counts, discounts = index.alone.astype(np.int64), index.discounts[0]
        total, taken = counts.sum(), discounts[np.minimum(counts, 3)]
        probability = (np.maximum(counts - taken, 0) + taken.sum() / index.vocab_size) / total
        return probability, np.array([0, np.log(total), np.log(np.count_nonzero(counts))])

    def score(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Probabilities (B, T) of rows[:, 1:] after what stands before in each of `rows` (B, T + 1), and features
        (B, T, FEATURES) of the contexts, which do not depend on the token they are asked about.
        """
        rows, (batch, length) = rows.astype(np.int64), (rows.shape[0], rows.shape[1] - 1)
        ranges, (alone, about) = self.index.ranges(rows), self.alone
        probability = alone[rows[:, 1:]]
        features = np.broadcast_to(about, (batch, length, self.FEATURES)).copy()
        for size in range(2, len(ranges) + 1):  # tokens of the n-grams, the one that is predicted among them
            contexts, grams = (np.stack(ranges[n - 1]) for n in (size - 1, size))
            known = contexts[0, :, :-1] < contexts[1, :, :-1]
            first, end = contexts[:, :, :-1][:, known]
            totals, kinds = self.index.continued(size, first, end)
            counts, discounts = self.index.counts(size, *grams[:, known]), self.index.discounts[size - 1]
            own = np.maximum(counts - discounts[np.minimum(counts, 3)], 0)
            shorter = probability[:, size - 2 :][known]
            probability[:, size - 2 :][known] = (own + kinds @ discounts[1:] * shorter) / totals
            features[:, size - 2 :][known] = np.stack(
                [np.full(len(totals), size - 1.0), np.log(totals), np.log(kinds.sum(-1))], -1
            )
        return probability, features

    def distribution(self, context: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Probabilities (V,) of every id after `context` (N,), of which the last few count, and the features."""
        probability, features = (array.copy() for array in self.alone)
        for size in range(2, min(self.index.longest, len(context) + 1) + 1):
            first, end = self.index.find(context[len(context) - size + 1 :].tolist())
            if first == end:
                break  # longer contexts end with this one, and so are not in the text either
            ids, counts = self.index.continuing(size, first, end)
            discounts, total = self.index.discounts[size - 1], counts.sum()
            taken = discounts[np.minimum(counts, 3)]
            probability *= taken.sum() / total
            probability[ids] += np.maximum(counts - taken, 0) / total
            features[:] = size - 1, np.log(total), np.log(len(ids))
        return probability, features
