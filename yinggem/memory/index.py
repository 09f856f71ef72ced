"""Every n-gram of a text as a range of its sorted places: how often it comes, or after how many different tokens.

The places of a text are sorted by the ids that begin there. So an n-gram is a range of the sorted places, and what
continues it are parts of that range. What Kneser-Ney smoothing wants to know besides, how many different ids come
before an n-gram, is one mark for each of them within the range.

The text is read as a ring, its beginning after its end: then every id begins an n-gram of every length.
"""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from yinggem.memory.marks import BOTH, HIGH, LEFT, LOW, Marks

WORD_BITS = 64
LETTERS, TOKENS = 7, 4  # ids in the longest n-grams, of letters and of larger vocabularies: longer are no better
LETTER_IDS = 258  # the most that letters have: 256 bytes, and the marks of documents and turns
DISCOUNT_LIMITS = np.array([0.0, 0.95, 1.9, 2.85])  # of a count, so that something of it is always kept


@dataclass(frozen=True)
class NgramIndex:
    """The n-grams of a text: besides it 4 bytes a token, 3 bits for each length but the first, and 8 bytes an id.

    The count of an n-gram is how often it comes, where it is one of the longest; else after how many different ids.

    Attributes:
        ids: (N,) the text.
        suffixes: (N,) uint32, the places of the text, sorted by the ids that begin there; those of the longest n-grams
            at least.
        firsts: (V + 1,) uint32: the places of suffixes that begin with id v are firsts[v] to firsts[v + 1] - 1.
        alone: (V,) uint32, the counts of single ids.
        discounts: (longest, 4) float64, for each length what is taken from a count of 0, 1, 2, and of 3 or more.
        marks: for the lengths 2, 3 ...: where an n-gram begins, its count as a size, at most 3; and one mark within its
            range for each different id before it, where those are what is counted.
    """

    ids: np.ndarray
    suffixes: np.ndarray
    firsts: np.ndarray
    alone: np.ndarray
    discounts: np.ndarray
    marks: tuple[Marks, ...]

    @property
    def vocab_size(self) -> int:
        """How many ids there may be."""
        return len(self.alone)

    @property
    def longest(self) -> int:
        """Ids of the longest n-grams."""
        return len(self.discounts)

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays in memory, those of the text as well."""
        arrays = (self.ids, self.suffixes, self.firsts, self.alone, self.discounts)
        return sum(array.nbytes for array in arrays) + sum(marks.nbytes for marks in self.marks)

    def ranges(self, rows: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
        """For each length n from 1 on, of the n-grams of rows (B, T): first and end of their ranges, (B, T - n + 1)."""
        low, high = self.firsts[rows].astype(np.int64), self.firsts[rows + 1].astype(np.int64)
        found = [(low, high)]
        for depth in range(1, min(self.longest, rows.shape[1])):
            wanted = rows[:, depth:]
            low = self._first(low[:, :-1], high[:, :-1], depth, wanted)
            high = self._first(low, high[:, :-1], depth, wanted + 1)
            found.append((low, high))
        return found

    def find(self, ngram: Sequence[int]) -> tuple[int, int]:
        """First place and end of the range of one n-gram of one id or more."""
        ids, size = self.ids, len(self.ids)
        low, high = int(self.firsts[ngram[0]]), int(self.firsts[ngram[0] + 1])
        for depth in range(1, len(ngram)):
            if low == high:
                break

            def id_of(place: np.uint32, depth: int = depth) -> int:
                return int(ids[(int(place) + depth) % size])

            low = bisect_left(self.suffixes, ngram[depth], low, high, key=id_of)
            high = bisect_left(self.suffixes, ngram[depth] + 1, low, high, key=id_of)
        return low, high

    def counts(self, length: int, low: np.ndarray, high: np.ndarray) -> np.ndarray:
        """(M,) of n-grams of two ids or more, each with the range `low` to `high` - 1 (M,)."""
        if length == self.longest:
            return high - low
        marks = self.marks[length - 2]
        return marks.marked(high) - marks.marked(low)

    def continued(self, length: int, low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Of contexts with such ranges, (M,), what continues them to `length` ids: the sums of the counts (M,), and how
        many of them are 1, 2, and 3 or more (M, 3).
        """
        marks = self.marks[length - 2]
        found = marks.before(high) - marks.before(low)
        totals = high - low if length == self.longest else found[:, LEFT]
        both = found[:, BOTH]
        return totals, np.stack([found[:, LOW] - both, found[:, HIGH] - both, both], -1)

    def continuing(self, length: int, low: int, high: int) -> tuple[np.ndarray, np.ndarray]:
        """The ids that continue one context to `length` ids, and the counts of those n-grams."""
        starts = self.marks[length - 2].sized(low, high)
        ids = self.ids[(self.suffixes[starts].astype(np.int64) + length - 1) % len(self.ids)]
        borders = np.append(starts, high)
        return ids, np.diff(borders if length == self.longest else self.marks[length - 2].marked(borders))

    def _first(self, low: np.ndarray, high: np.ndarray, depth: int, wanted: np.ndarray) -> np.ndarray:
        """In each range, sorted by the ids at `depth`, the first place where that is not below `wanted`."""
        shape, size = low.shape, len(self.ids)
        low, high, wanted = low.ravel().copy(), high.ravel().copy(), wanted.ravel()
        open_ = np.flatnonzero(low < high)
        while len(open_):
            first, last = low[open_], high[open_]
            middle = (first + last) >> 1
            place = self.suffixes[middle].astype(np.int64) + depth
            below = self.ids[np.where(place < size, place, place - size)] < wanted[open_]
            first, last = np.where(below, middle + 1, first), np.where(below, last, middle)
            low[open_], high[open_] = first, last
            open_ = open_[first < last]
        return low.reshape(shape)


def longest_ngram(vocab_size: int) -> int:
    """Ids in the longest n-grams that are counted: 7 characters or bytes, 4 tokens, fewer where 64 bits are too few."""
    return min(LETTERS if vocab_size <= LETTER_IDS else TOKENS, WORD_BITS // bits_of(vocab_size))


def bits_of(vocab_size: int) -> int:
    """Bits that hold every id."""
    return max(1, int(vocab_size - 1).bit_length())


def build_index(ids: np.ndarray, vocab_size: int) -> NgramIndex:
    """Count the n-grams of `ids` (N,), N >= 1, all below vocab_size.

    The counts are those of interpolated Kneser-Ney smoothing with three discounts (Chen and Goodman 1998, section 3).
    """
    size, longest = len(ids), longest_ngram(vocab_size)
    suffixes = sorted_places(ids, longest, bits_of(vocab_size))
    following = np.empty(size, np.uint32)  # where the suffix that begins one id later is sorted to
    following[suffixes] = np.arange(size, dtype=np.uint32)
    following = np.append(following, following[:1])[suffixes.astype(np.int64) + 1]
    new = np.zeros(size, bool)  # whether the n-gram there differs from the one before
    new[0] = True
    starts, discounts, marks = np.zeros(1, np.int64), [], []
    for length in range(1, longest + 1):
        last = np.resize(ids, size + length)[suffixes.astype(np.int64) + length - 1]
        new[1:] |= last[1:] != last[:-1]
        shorter, starts = starts, np.flatnonzero(new)
        if length > 1:
            # For each n-gram, whose first id comes before the rest: one mark in the range of the rest.
            before = np.zeros(size, bool)
            before[following[starts]] = True
            counts = np.add.reduceat(before, shorter, dtype=np.uint32)
            discounts.append(_discounts(counts))
            if length == 2:
                alone = np.zeros(vocab_size, np.uint32)
                alone[ids[suffixes[shorter]]] = counts
            else:
                marks.append(_marks(size, shorter, counts, before))
    counts = np.diff(np.append(starts, size)).astype(np.uint32)
    discounts.append(_discounts(counts))
    marks.append(_marks(size, starts, counts, None))
    return NgramIndex(ids, suffixes, first_places(ids, vocab_size), alone, np.array(discounts), tuple(marks))


def first_places(ids: np.ndarray, vocab_size: int) -> np.ndarray:
    """(V + 1,) uint32: before which sorted place the ids begin that are below each number."""
    return np.concatenate([[0], np.cumsum(np.bincount(ids, minlength=vocab_size))]).astype(np.uint32)


def sorted_places(ids: np.ndarray, depth: int, bits: int) -> np.ndarray:
    """(N,) uint32: the places of a ring of ids, sorted by the next `depth` ids or more, then as they come.

    Numbers of 64 bits are sorted that hold some ids of `bits` bits and the place, the last ids first: a radix sort.
    """
    size = len(ids)
    place_bits = max(1, (size - 1).bit_length())
    width = (WORD_BITS - place_bits) // bits
    places = np.arange(size, dtype=np.uint64)
    order = np.arange(size, dtype=np.uint32)
    for block in reversed(range(-(-depth // width))):
        keys = packed(np.roll(ids, -block * width), width, bits)[order]
        keys = np.sort(keys << np.uint64(place_bits) | places)
        order = order[keys & np.uint64((1 << place_bits) - 1)]
    return order


def packed(ids: np.ndarray, width: int, bits: int) -> np.ndarray:
    """(N,) uint64: at every place of a ring the next `width` ids, the first in the highest bits."""
    ring = np.resize(ids, len(ids) + width - 1).astype(np.uint64)
    grams = np.zeros(len(ids), np.uint64)
    for start in range(width):
        grams <<= np.uint64(bits)
        grams |= ring[start : start + len(ids)]
    return grams


def _marks(size: int, starts: np.ndarray, counts: np.ndarray, marks: np.ndarray | None) -> Marks:
    sizes = np.zeros(size, np.uint8)
    sizes[starts] = np.minimum(counts, 3)
    return Marks.of(sizes, marks)


def _discounts(counts: np.ndarray) -> np.ndarray:
    """Chen and Goodman's three discounts, equation 26; within limits, for a short text has counts that fit none."""
    ones, twos, threes, fours = (max(1, int(np.count_nonzero(counts == count))) for count in (1, 2, 3, 4))
    share = ones / (ones + 2 * twos)
    found = np.array([0, 1 - 2 * share * twos / ones, 2 - 3 * share * threes / twos, 3 - 4 * share * fours / threes])
    return np.clip(found, DISCOUNT_LIMITS / 20, DISCOUNT_LIMITS)
