"""What is kept of a document to tell whether another is nearly the same: a sketch of its shingles.

A shingle is a run of five words. Two documents are near duplicates when each holds at least NEAR of the other's. A
document is known by its SKETCH smallest hashes of shingles, a MinHash (Broder 1997): a short one by all it has.
"""

import re
import zlib

import numpy as np

SHINGLE, NEAR = 5, 0.8  # words of a shingle; share of them that near duplicates have in common
SKETCH = 128  # hashes a document: the share is exact where neither has more shingles, else right within 4 % mostly
MOST_WORDS = 1 << 20  # whose hashes are kept

# A word, or one sign of a script without spaces.
WORD = re.compile(r"[\u2e80-\u9fff\uac00-\ud7af\uf900-\ufaff]|[^\W\u2e80-\u9fff\uac00-\ud7af\uf900-\ufaff]+")


class _WordHashes(dict[str, int]):
    """The CRC-32 of words."""

    def __missing__(self, word: str) -> int:
        if len(self) >= MOST_WORDS:
            self.clear()
        self[word] = found = zlib.crc32(word.encode("utf-8", "surrogatepass"))
        return found


class Sketches:
    """The SKETCH smallest hashes of the shingles of many documents."""

    def __init__(self) -> None:
        self._words = _WordHashes()

    def of(self, texts: list[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Hashes (H,) uint64, sorted within a text; the text (H,) of each; how many shingles (N,) every text has.

        A text of fewer than SHINGLE words is one shingle; one without words has none.
        """
        words = [WORD.findall(text.casefold()) for text in texts]
        lengths = np.array([len(found) for found in words], np.int64)  # of no texts, too
        padded = np.maximum(lengths, np.where(lengths, SHINGLE, 0))  # a short text is filled up with zeros
        flat = np.zeros(int(padded.sum()) + SHINGLE, np.uint64)
        begins = np.cumsum(padded) - padded
        for begin, found in zip(begins.tolist(), words, strict=True):
            flat[begin : begin + len(found)] = [self._words[word] for word in found]
        hashes = np.zeros(len(flat) - SHINGLE, np.uint64)
        for offset in range(SHINGLE):
            hashes = (hashes ^ flat[offset : offset + len(hashes)]) * np.uint64(0x9E3779B97F4A7C15)
            hashes ^= hashes >> np.uint64(29)
        owners = np.repeat(np.arange(len(texts)), padded)
        inside = np.arange(len(hashes)) - begins[owners] <= padded[owners] - SHINGLE
        hashes, owners = hashes[inside], owners[inside]
        order = np.lexsort((hashes, owners))
        hashes, owners = hashes[order], owners[order]
        new = np.ones(len(hashes), bool)
        new[1:] = (hashes[1:] != hashes[:-1]) | (owners[1:] != owners[:-1])
        hashes, owners = hashes[new], owners[new]
        sizes = np.bincount(owners, minlength=len(texts))
        rank = np.arange(len(hashes)) - (np.cumsum(sizes) - sizes)[owners]
        return hashes[rank < SKETCH], owners[rank < SKETCH], sizes


def are_near(mine: np.ndarray, theirs: np.ndarray, size: int, other: int) -> bool:
    """Whether each of two texts has NEAR of the other's shingles, by their sketches and how many shingles they have."""
    union = np.union1d(mine, theirs)[:SKETCH]
    common = np.isin(union, np.intersect1d(mine, theirs)).sum()
    jaccard = common / len(union)
    return bool(jaccard / (1 + jaccard) * (size + other) >= NEAR * max(size, other) - 1e-9)
