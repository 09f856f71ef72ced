"""Stretches of words or characters: what is one, how long it is, and a hash of every one in a text.

A word is a run of characters without white space, as `str.split` finds it. White space between two words counts as
one space, whatever it is: a copy with other line breaks is a copy. Characters are compared exactly.
"""

import codecs
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from yinggem.common.checks import check_whole_number
from yinggem.common.errors import UserError
from yinggem.text.tokenizer import Tokenizer

MOST = 1000  # words or characters: nobody needs to allow longer copies, and every one of them costs time
FACTOR = 0x9E3779B97F4A7C15  # odd; of the polynomial whose value is the hash of a stretch
BLOCK_IDS = 1 << 18  # tokens that are decoded at once
Units = list[str] | str  # words, or a text whose characters count


@dataclass(frozen=True)
class Length:
    """So many words, or so many characters."""

    count: int
    characters: bool = False

    @classmethod
    def of(cls, value: "int | str | Length", name: str = "max_copy") -> "Length":
        """A number of words; "40c" is 40 characters.

        Raises:
            UserError: it is neither, or out of range; the sentence calls it `name`.
        """
        if isinstance(value, Length):
            return value
        digits = str(value).removesuffix("c")
        if isinstance(value, bool) or not (digits.isascii() and digits.isdigit()) or len(digits) > 9:
            raise UserError(
                f"{name} must be a number of words from 1 to {MOST}, or of characters as in 40c, "
                f"not {str(value)[:40]!r}."
            )
        check_whole_number(name, int(digits), 1, MOST)
        return cls(int(digits), str(value).endswith("c"))

    def __str__(self) -> str:
        return f"{self.count} {'character' if self.characters else 'word'}{'s' * (self.count != 1)}"

    def split(self, text: str) -> Units:
        """The words of a text, or the text, whose units are its characters."""
        return text if self.characters else text.split()

    def joined(self, units: Units) -> str:
        """Units as the text that is compared."""
        return units if isinstance(units, str) else " ".join(units)


def decoded(ids: np.ndarray, tokenizer: Tokenizer, advance: Callable[[int], None] = lambda _: None) -> Iterator[str]:
    """The text of ids (N,) in pieces, as `tokenizer.decode` gives it whole; `advance` is told of every id."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    for start in range(0, len(ids), BLOCK_IDS):
        block = ids[start : start + BLOCK_IDS].tolist()
        yield decoder.decode(tokenizer.decode_bytes(block))
        advance(len(block))
    yield decoder.decode(b"", final=True)


def blocks(chunks: Iterable[str], length: Length) -> Iterator[Units]:
    """The units of a text that comes in chunks; a word that two chunks share is whole."""
    if length.characters:
        yield from chunks
        return
    parts: list[str] = []  # of a word that the next chunk may continue
    for chunk in chunks:
        parts.append(chunk)
        if chunk.split(maxsplit=1) in ([], [chunk]) and not chunk.isspace():
            continue  # nothing, or the middle of a word
        words = "".join(parts).split()
        parts = [words.pop()] if words and not chunk[-1:].isspace() else []
        yield words
    yield "".join(parts).split()


def overlapping(chunks: Iterable[str], length: Length) -> Iterator[Units]:
    """Blocks of units, each beginning with the last length - 1 units of the one before.

    So every stretch of that length begins at one place of one block. A text that is shorter is one block.
    """
    kept: Units = "" if length.characters else []
    short = True
    for block in blocks(chunks, length):
        units = kept + block  # type: ignore[operator]  # both are words, or both text
        if len(units) < length.count:
            kept = units
        else:
            short, kept = False, units[len(units) - length.count + 1 :]
            yield units
    if short:
        yield kept


def unit_hashes(units: Units) -> np.ndarray:
    """(N,) uint64, one of each unit; of words they differ from process to process."""
    if not isinstance(units, str):
        return np.fromiter(map(hash, units), np.int64, len(units)).view(np.uint64)
    codes = np.frombuffer(units.encode("utf-32-le", "surrogatepass"), "<u4").astype(np.uint64)
    codes += np.uint64(1)
    codes *= np.uint64(0xD6E8FEB86659FD93)
    codes ^= codes >> np.uint64(32)
    return codes


def stretch_hashes(hashes: np.ndarray, count: int) -> np.ndarray:
    """(N,) of units -> (N - count + 1,) uint64 of the stretches of `count` units, by doubling their length.

    The hash of a stretch is the polynomial of its units' hashes at FACTOR, modulo 2^64.
    """
    if len(hashes) < count:
        return hashes[:0]
    total, size = np.zeros(len(hashes) + 1, np.uint64), 0  # of the stretches of `size` units so far
    power, width = hashes, 1  # of the stretches of `width` units, a power of two
    while True:
        if count & width:
            places = len(hashes) + 1 - size - width
            total = total[:places] * _factor(width) + power[size : size + places]
            size += width
        if size == count:
            return total
        power = power[:-width] * _factor(width) + power[width:]
        width *= 2


def _factor(count: int) -> np.uint64:
    return np.uint64(pow(FACTOR, count, 1 << 64))
