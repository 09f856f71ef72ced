"""What the training text says of the next token: interpolated Kneser-Ney smoothing over its n-grams."""

import numpy as np

from yinggem.memory.index import NgramIndex, packed


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

    def score(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Probabilities (B, T) of rows[:, 1:] after what stands before in each of `rows` (B, T + 1), and features
        (B, T, FEATURES) of the contexts, which do not depend on the token they are asked about.
        """
        (batch, length), bits = (rows.shape[0], rows.shape[1] - 1), np.uint64(self.index.bits)
        probability = np.full((batch, length), 1 / self.index.vocab_size)
        features = np.zeros((batch, length, self.FEATURES))
        for order, level in enumerate(self.index.levels):  # tokens of context
            if order > length:
                break
            first = max(0, order - 1)  # the first column with so many tokens before it
            grams = packed(rows, order + 1, self.index.bits)[:, int(order == 0) :]  # the first id is not predicted
            contexts = grams >> bits
            row = np.minimum(np.searchsorted(level.contexts, contexts), len(level.contexts) - 1)
            known = level.contexts[row] == contexts
            place = np.minimum(np.searchsorted(level.grams, grams), len(level.grams) - 1)
            count = np.where(level.grams[place] == grams, level.counts[place], 0)
            shorter, total = probability[:, first:], level.totals[row]
            own = np.maximum(count - level.discounts[np.minimum(count, 3)], 0)
            probability[:, first:] = np.where(known, (own + level.kept_back[row] * shorter) / total, shorter)
            found = np.stack([np.full(known.shape, float(order)), np.log(total), np.log(_sizes(level.starts, row))], -1)
            features[:, first:] = np.where(known[..., None], found, features[:, first:])
        return probability, features

    def distribution(self, context: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Probabilities (V,) of every id after `context` (N,), of which the last few count, and the features."""
        size, bits = self.index.vocab_size, self.index.bits
        probability, features = np.full(size, 1 / size), np.zeros(self.FEATURES)
        for order, level in enumerate(self.index.levels):
            if order > len(context):
                break
            key = packed(context[len(context) - order :], order, bits)[0] if order else np.uint64(0)
            row = int(np.searchsorted(level.contexts, key))
            if row == len(level.contexts) or level.contexts[row] != key:
                break  # longer contexts end with this one, and so are not in the text either
            place = slice(int(level.starts[row]), int(level.starts[row + 1]))
            ids = (level.grams[place] & np.uint64((1 << bits) - 1)).astype(np.int64)
            counts, total = level.counts[place], float(level.totals[row])
            probability *= float(level.kept_back[row]) / total
            probability[ids] += np.maximum(counts - level.discounts[np.minimum(counts, 3)], 0) / total
            features[:] = order, np.log(total), np.log(len(ids))
        return probability, features


def _sizes(starts: np.ndarray, row: np.ndarray) -> np.ndarray:
    """How many different tokens follow each context."""
    sizes: np.ndarray = starts[row + 1] - starts[row]
    return sizes
