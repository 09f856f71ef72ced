"""Which stretches of a text stand in another one, word for word: `yinggem copies` and the marks of `yinggem generate`.

The text that is searched for copies is small and kept whole. The training text comes in chunks and may be of any size:
a hash of each of its stretches is looked up in a table of the small text's, and what is found is compared exactly.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from yinggem.memory.matching import Matching
from yinggem.memory.stretches import Length, Units, overlapping, stretch_hashes, unit_hashes

LEAST = Length(8)  # the shortest stretch that counts as a copy; people's texts share shorter ones by chance
TABLE_BITS = 22  # at most, of the table that most stretches fail in: 4 MB, which stay in the processor's cache


@dataclass(frozen=True)
class Copy:
    """A stretch that stands in the training text and cannot be made longer.

    Attributes:
        start, end: the characters start .. end-1 of the text.
        length: in words (or characters, where those were asked for).
    """

    start: int
    end: int
    length: int

    def to_dict(self) -> dict[str, int]:
        """Plain data for a record, of words."""
        return {"start": self.start, "end": self.end, "words": self.length}


@dataclass(frozen=True)
class Copies:
    """What of a text stands in the training text.

    Attributes:
        stretches: by their place; two of them may overlap, as the end of one line and the beginning of the next.
        longest: length of the longest stretch, also where it is shorter than `least`; 0 where no word is known.
        share: of the text's stretches of exactly `least`, how many stand in the training text.
    """

    stretches: list[Copy]
    longest: int
    share: float
    least: Length

    def spans(self) -> list[tuple[int, int]]:
        """The characters that are part of a copy, as start and end: stretches that overlap are one."""
        merged: list[tuple[int, int]] = []
        for copy in self.stretches:
            if merged and copy.start <= merged[-1][1]:
                merged[-1] = (merged[-1][0], copy.end)
            else:
                merged.append((copy.start, copy.end))
        return merged

    def behind(self, characters: int) -> "Copies":
        """The same in the text without its first `characters`; a copy that begins in them begins at 0."""
        moved = [
            replace(copy, start=max(0, copy.start - characters), end=copy.end - characters) for copy in self.stretches
        ]
        return replace(self, stretches=moved)


class Grams:
    """The stretches of one length in a text, and a quick look for them in another.

    Args:
        first: how many of the first stretches do not count.
    """

    def __init__(self, units: Units, length: int, unit: Length, first: int = 0) -> None:
        self.length, self.unit = length, unit
        places = range(max(first, 0), max(0, len(units) - length + 1))
        texts = [unit.joined(units[place : place + length]) for place in places]
        self.numbers: dict[str, int] = {}  # of each stretch that differs from those before
        self.sequence = [self.numbers.setdefault(text, len(self.numbers)) for text in texts]
        self.hashes = np.unique(stretch_hashes(unit_hashes(units), length)[places.start :])
        bits = min(TABLE_BITS, len(self.hashes).bit_length() + 6)
        self.shift = np.uint64(64 - bits)
        self.table = np.zeros(1 << bits, np.bool_)
        self.table[self.hashes >> self.shift] = True

    def find(self, units: Units, hashes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Places in `units` where a stretch of the text begins, and that stretch's number; exact."""
        if not len(self.hashes):
            return np.empty(0, np.int64), np.empty(0, np.int64)
        grams = stretch_hashes(hashes, self.length)
        places = np.flatnonzero(self.table[grams >> self.shift])
        near = np.minimum(np.searchsorted(self.hashes, grams[places]), len(self.hashes) - 1)
        places = places[self.hashes[near] == grams[places]]
        texts = (self.unit.joined(units[place : place + self.length]) for place in places.tolist())
        numbers = np.fromiter((self.numbers.get(text, -1) for text in texts), np.int64, len(places))
        return places[numbers >= 0], numbers[numbers >= 0]


class Runs:
    """Stretches of the training text that are longer than one gram: the numbers of grams that follow one another."""

    def __init__(self) -> None:
        self.found: set[bytes] = set()  # each once, however often it stands there
        self._open: list[np.ndarray] = []
        self._next = 0  # the place at which the open run would go on

    def add(self, places: np.ndarray, numbers: np.ndarray, size: int) -> None:
        """Take the grams of a block of `size` places, which come after those of the block before."""
        parts = np.split(numbers, np.flatnonzero(np.diff(places) != 1) + 1)
        if not len(places) or places[0] != self._next:
            self.close()
        self._open.append(parts[0])
        for part in parts[1:]:
            self.close()
            self._open.append(part)
        self._next = 0 if len(places) and places[-1] == size - 1 else -1

    def close(self) -> None:
        """No gram follows the last one."""
        run = np.concatenate(self._open) if self._open else np.empty(0)
        if len(run):
            self.found.add(run.astype(np.int64).tobytes())
        self._open = []


def find_copies(text: str, training: Iterable[str], least: Length = LEAST, after: int = 0) -> Copies:
    """The stretches of `text` that stand in the training text.

    Args:
        training: the training text in chunks, or whole in a list.
        least: the shortest stretch that counts.
        after: only stretches that end behind so many characters, as behind a prompt, count; they may begin before.
    """
    units, spans = least.split(text), unit_spans(text, least)
    known = sum(end <= after for _, end in spans)  # units that end too early
    grams, runs = Grams(units, least.count, least), Runs()
    counting = set(grams.sequence[max(0, known - least.count + 1) :])
    longest, longer = 0, Grams(units, 1, least, known)
    for block in overlapping(training, least):
        hashes = unit_hashes(block)
        places, numbers = grams.find(block, hashes)
        runs.add(places, numbers, len(block) - least.count + 1)
        if not counting.isdisjoint(numbers.tolist()):
            longest = least.count  # no need to look for shorter ones
        while longest < least.count and len(longer.find(block, hashes)[0]):
            longest += 1
            longer = Grams(units, longest + 1, least, known - longest)
    runs.close()
    ends = range(least.count, len(units) + 1)
    lengths = dict(zip(ends, _lengths(grams, runs), strict=True))
    late = {end: length for end, length in lengths.items() if end > known}
    stretches = [
        Copy(spans[end - length][0], spans[end - 1][1], length)
        for end, length in late.items()
        if length and lengths.get(end + 1) != length + 1
    ]
    share = sum(map(bool, late.values())) / max(1, len(late))
    return Copies(stretches, max([longest, *late.values()]), share, least)


def unit_spans(text: str, unit: Length) -> list[tuple[int, int]]:
    """Where each word (or character) of a text begins, and where it has ended."""
    if unit.characters:
        return [(place, place + 1) for place in range(len(text))]
    return [found.span() for found in re.finditer(r"\S+", text)]


def _lengths(grams: Grams, runs: Runs) -> list[int]:
    """For each gram, the length in units of the longest stretch that ends with it; 0 where it is not found."""
    found = [np.frombuffer(run, np.int64) for run in runs.found]
    known = np.unique(np.concatenate([np.empty(0, np.int64), *found]))
    kept = np.isin(grams.sequence, known)
    # Only what stands in the training text is worth a state; the others are one number that no run has.
    here = np.flatnonzero(kept | np.append(kept[1:], False))
    nowhere = len(grams.numbers)
    matching = Matching(np.where(kept, grams.sequence, nowhere)[here].tolist())
    for run in found:
        matching.add(run.tolist())
    lengths = np.zeros(len(grams.sequence), np.int64)
    lengths[here] = matching.lengths()
    return np.where(kept, lengths + grams.length - 1, 0).tolist()
