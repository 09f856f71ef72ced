"""Marks at the places of a sorted text, two or three bits for each, and how many stand before a place."""

from functools import cached_property

import numpy as np

BLOCK = 512  # places: the marks before each of them are summed beforehand, those within it are counted when asked for
WORDS = BLOCK // 64
AT_ONCE = 1 << 16  # places that are asked about in one piece
LOW, HIGH, BOTH, LEFT = range(4)  # columns of `before`
WITHIN = np.array(  # (BLOCK, WORDS): the bits of a block that stand before each of its places
    [[(1 << min(max(place - 64 * word, 0), 64)) - 1 for word in range(WORDS)] for place in range(BLOCK)], np.uint64
)


class Marks:
    """For each of N places a size from 0 to 3, and a mark beside it.

    Args:
        words: (N / 64, K) uint64, N rounded up to blocks. Of 64 places the lower bits of the sizes, the higher bits,
            and for K = 3 the marks.
    """

    def __init__(self, words: np.ndarray) -> None:
        self.words = words.reshape(-1, WORDS, words.shape[-1])

    @cached_property
    def sums(self) -> np.ndarray:
        """(N / BLOCK + 1, K + 1) uint32: what stands before each block. While generating in C nobody asks for it."""
        found = _counted(self.words)
        sums = np.zeros((len(found) + 1, found.shape[1]), np.uint32)
        np.cumsum(found, 0, out=sums[1:])
        return sums

    @classmethod
    def of(cls, sizes: np.ndarray, marks: np.ndarray | None = None) -> "Marks":
        """Those of sizes (N,) from 0 to 3 and marks (N,), which may be left out."""
        planes = [sizes & 1, sizes >> 1, *([] if marks is None else [marks])]
        # One more place, behind the last, is asked about.
        words = np.zeros((len(sizes) // BLOCK * WORDS + WORDS, len(planes)), np.uint64)
        for number, plane in enumerate(planes):
            packed = np.zeros(len(words) * 8, np.uint8)
            packed[: -(-len(sizes) // 8)] = np.packbits(plane.astype(bool), bitorder="little")
            words[:, number] = packed.view("<u8")
        return cls(words)

    @property
    def size(self) -> int:
        """How many places there are, rounded up."""
        return len(self.words) * BLOCK

    @property
    def nbytes(self) -> int:
        """Bytes in memory."""
        return self.words.nbytes + self.sums.nbytes

    def before(self, places: np.ndarray) -> np.ndarray:
        """(M,) places from 0 to N -> (M, 3 or 4): before each, sizes of 1 or 3, of 2 or 3, of 3, and marks."""
        parts = [self._before(places[start : start + AT_ONCE]) for start in range(0, len(places), AT_ONCE)]
        return np.concatenate(parts) if parts else np.zeros((0, self.sums.shape[1]), np.int64)

    def marked(self, places: np.ndarray) -> np.ndarray:
        """(M,) places from 0 to N -> (M,) marks before each: the last column of `before`."""
        block = places // BLOCK
        words = self.words[block, :, -1] & WITHIN[places % BLOCK]
        found: np.ndarray = self.sums[block, LEFT] + np.bitwise_count(words).sum(1, dtype=np.int64)
        return found

    def _before(self, places: np.ndarray) -> np.ndarray:
        block = places // BLOCK
        here: np.ndarray = self.sums[block] + _counted(self.words[block] & WITHIN[places % BLOCK][..., None])
        return here

    def sized(self, first: int, last: int) -> np.ndarray:
        """The places from `first` to `last` - 1 whose size is above 0."""
        start = first // 64
        words = self.words.reshape(-1, self.words.shape[-1])[start : -(-last // 64)]
        some = words[:, LOW] | words[:, HIGH]
        there = np.flatnonzero(some)
        bits = np.unpackbits(some[there].astype("<u8").view(np.uint8).reshape(-1, 8), axis=1, bitorder="little")
        word, bit = np.nonzero(bits)
        places: np.ndarray = 64 * (there[word] + start) + bit
        return places[np.searchsorted(places, first) : np.searchsorted(places, last)]


def _counted(words: np.ndarray) -> np.ndarray:
    """(M, WORDS, K) -> (M, K + 1): the bits of the two planes of sizes, those that both have, and the marks."""
    found = np.empty((len(words), words.shape[-1] + 1), np.int64)
    found[:, [LOW, HIGH, LEFT][: words.shape[-1]]] = np.bitwise_count(words).sum(1)
    found[:, BOTH] = np.bitwise_count(words[..., LOW] & words[..., HIGH]).sum(1)
    return found
