"""Every place of a text where a stretch of words or characters stands, found in the time of one look-up."""

from collections.abc import Iterable
from functools import lru_cache

import numpy as np

from yinggem.memory.stretches import Length, overlapping, stretch_hashes, unit_hashes

EVERY = 8  # of characters, only those at such places are kept: an eighth of the memory and of the time to build it
REMEMBERED = 1 << 12  # words and what follows them


class CopyIndex:
    """Where stretches of `length` stand in a text.

    In memory: the text, and of every word, or of every EVERY-th character, a hash of 8 bytes and a place of 4 (of 8
    where the text is longer than 4 GB). Hashes only say where to look: what is found was compared.

    Args:
        chunks: the text.
        length: of the stretches that are looked up.

    Attributes:
        text: the text; of words with one space after each of them.
    """

    def __init__(self, chunks: Iterable[str], length: Length) -> None:
        self.length = length
        self.every = max(1, min(EVERY, length.count // 2)) if length.characters else 1
        self.kept = Length(length.count - self.every + 1, length.characters)  # one of them is in every stretch
        parts, hashes, places = [], [np.empty(0, np.uint64)], [np.empty(0, np.int64)]
        units_before, characters = 0, 0
        for block in overlapping(chunks, self.kept):
            known = min(self.kept.count - 1, units_before)  # units that were in the block before
            sizes = np.ones(len(block), np.int64) if length.characters else 1 + np.fromiter(map(len, block), np.int64)
            starts = characters - sizes[:known].sum() + np.cumsum(sizes) - sizes
            found = stretch_hashes(unit_hashes(block), self.kept.count)
            first = -(units_before - known) % self.every
            hashes.append(found[first :: self.every])
            places.append(starts[: len(found)][first :: self.every])
            parts.append(self._as_text(length.joined(block[known:])))
            units_before, characters = units_before + len(block) - known, characters + len(parts[-1])
        self.text = "".join(parts)
        unsorted = np.concatenate(hashes)
        order = np.argsort(unsorted)
        kind = np.uint32 if characters < 1 << 32 else np.int64
        self.hashes, self.places = unsorted[order], np.concatenate(places)[order].astype(kind)
        self.words_after = lru_cache(REMEMBERED)(self._words_after)

    def _as_text(self, joined: str) -> str:
        return joined if self.length.characters or not joined else joined + " "

    def ends(self, stretch: str) -> list[int]:
        """Places in `text` right behind each occurrence of `stretch`; none where it is shorter than `length`."""
        units = self.length.split(stretch)
        if len(units) < self.length.count:
            return []
        hashes = stretch_hashes(unit_hashes(units), self.kept.count)
        first, last = (np.searchsorted(self.hashes, hashes, side) for side in ("left", "right"))
        # Of every `every` places in a row one is kept: the fewest candidates are looked at.
        candidates = np.concatenate([[0], np.cumsum(last - first)])
        start = int(np.argmin(candidates[self.every :] - candidates[: -self.every]))
        wanted, ends = self._as_text(stretch), []
        for unit in range(start, start + self.every):
            shift = len(self._as_text(self.length.joined(units[:unit])))
            for place in self.places[first[unit] : last[unit]].tolist():
                if place >= shift and self.text.startswith(wanted, place - shift):
                    ends.append(place - shift + len(wanted))
        return ends

    def _words_after(self, stretch: str) -> frozenset[str]:
        """The words that follow a stretch of words somewhere in the text."""
        text = self.text
        return frozenset(text[end : text.index(" ", end)] for end in self.ends(stretch) if end < len(text))
