"""Every n-gram of a text, sorted: how often it comes, or after how many different tokens.

The ids of an n-gram are packed into one 64-bit number, the first in the highest bits. So all n-grams that begin alike
lie side by side in a sorted array: a context is a range of it.

The text is read as a ring, its beginning after its end: then every id begins an n-gram of every length.
"""

import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import BinaryIO

import numpy as np

MAGIC = b"yinggem-ngrams-1\n"
WORD_BITS = 64
LETTERS, TOKENS = 7, 4  # ids in the longest n-grams, of letters and of larger vocabularies: longer are no better
LETTER_IDS = 258  # the most that letters have: 256 bytes, and the marks of documents and turns
DISCOUNT_LIMITS = np.array([0.0, 0.95, 1.9, 2.85])  # of a count, so that something of it is always kept


@dataclass(frozen=True)
class Level:
    """The n-grams of one length and the contexts they continue, which are their first n - 1 ids.

    Attributes:
        grams: (U,) uint64, sorted; the last id lies in the lowest bits.
        counts: (U,) uint32: how often each comes; of all but the longest, after how many different ids.
        contexts: (C,) uint64, sorted.
        starts: (C + 1,) uint32: the n-grams of context c are grams[starts[c] : starts[c + 1]].
        totals: (C,) uint32, the sums of their counts.
        kept_back: (C,) float32, the sums of their discounts, which go to shorter contexts.
        discounts: (4,) float64, what is taken from a count of 0, 1, 2, and of 3 or more.
    """

    grams: np.ndarray
    counts: np.ndarray
    contexts: np.ndarray
    starts: np.ndarray
    totals: np.ndarray
    kept_back: np.ndarray
    discounts: np.ndarray


@dataclass(frozen=True)
class NgramIndex:
    """The n-grams of a text, the level of single ids first.

    Args:
        bits: of an id.
    """

    vocab_size: int
    bits: int
    levels: tuple[Level, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        return sum(getattr(level, field.name).nbytes for level in self.levels for field in fields(Level))


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
    bits, longest = bits_of(vocab_size), longest_ngram(vocab_size)
    grams = np.sort(packed(np.resize(ids, len(ids) + longest - 1), longest, bits))
    levels = []
    unique, counts = _runs(grams)
    for length in range(longest, 0, -1):
        levels.append(_level(unique, counts, bits))
        if length > 1:
            # After how many different ids an n-gram comes: longer ones without their first id. `grams` loses its last.
            longer = unique if length == longest else _runs(grams >> np.uint64(bits * (longest - length)))[0]
            unique, counts = _runs(np.sort(longer & np.uint64((1 << bits * (length - 1)) - 1)))
    return NgramIndex(vocab_size, bits, tuple(reversed(levels)))


def packed(ids: np.ndarray, length: int, bits: int) -> np.ndarray:
    """(..., N) ids -> (..., N - length + 1) uint64, the n-gram that begins at every place."""
    ids = ids.astype(np.uint64)
    count = ids.shape[-1] - length + 1
    grams = np.zeros((*ids.shape[:-1], count), np.uint64)
    for start in range(length):
        grams <<= np.uint64(bits)
        grams |= ids[..., start : start + count]
    return grams


def _runs(ordered: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The different numbers of a sorted array, and how often each stands in it."""
    first = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
    return ordered[first], np.diff(np.append(first, len(ordered))).astype(np.uint32)


def _level(grams: np.ndarray, counts: np.ndarray, bits: int) -> Level:
    contexts, sizes = _runs(grams >> np.uint64(bits))
    starts = np.concatenate([[0], np.cumsum(sizes)]).astype(np.uint32)
    discounts = _discounts(counts)
    totals = np.add.reduceat(counts, starts[:-1], dtype=np.uint32)
    kept_back = np.add.reduceat(discounts[np.minimum(counts, 3)], starts[:-1]).astype(np.float32)
    return Level(grams, counts, contexts, starts, totals, kept_back, discounts)


def _discounts(counts: np.ndarray) -> np.ndarray:
    """Chen and Goodman's three discounts, equation 26; within limits, for a short text has counts that fit none."""
    ones, twos, threes, fours = (max(1, int(np.count_nonzero(counts == count))) for count in (1, 2, 3, 4))
    share = ones / (ones + 2 * twos)
    found = np.array([0, 1 - 2 * share * twos / ones, 2 - 3 * share * threes / twos, 3 - 4 * share * fours / threes])
    return np.clip(found, DISCOUNT_LIMITS / 20, DISCOUNT_LIMITS)


def write_index(file: BinaryIO, index: NgramIndex) -> None:
    """Write an index so that `open_index` can map it into memory."""
    arrays = list(_arrays(index))
    about = {"vocab_size": index.vocab_size, "shapes": [[array.dtype.str, len(array)] for array in arrays]}
    blocks = [array.tobytes() for array in arrays]
    checksum = 0
    for block in blocks:
        checksum = zlib.crc32(block, checksum)
    file.write(MAGIC)
    header = json.dumps(about | {"checksum": checksum}).encode()
    file.write(header + b" " * (-(len(MAGIC) + len(header) + 1) % 16) + b"\n")
    for block in blocks:
        file.write(block + bytes(-len(block) % 16))


def open_index(path: Path) -> NgramIndex | None:
    """Map an index that `write_index` wrote; None for anything else, or where a byte is not what was written."""
    try:
        content = np.memmap(path, np.uint8, "r")
        with open(path, "rb") as file:
            if file.readline() != MAGIC:
                return None
            header = json.loads(file.readline(1 << 16))
            place = file.tell()
        found, checksum = [], 0
        for kind, length in header["shapes"]:
            size = np.dtype(kind).itemsize * length
            block = content[place : place + size]
            if kind not in ("<u8", "<u4", "<f4", "<f8") or len(block) != size:
                return None
            checksum = zlib.crc32(block.data, checksum)
            found.append(block.view(kind))
            place += size + -size % 16
        if checksum != header["checksum"]:
            return None
        width = len(fields(Level))
        levels = tuple(Level(*found[start : start + width]) for start in range(0, len(found), width))
        return NgramIndex(header["vocab_size"], bits_of(header["vocab_size"]), levels)
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _arrays(index: NgramIndex) -> Iterator[np.ndarray]:
    for level in index.levels:
        for field in fields(Level):
            yield getattr(level, field.name)
