"""What a text says of the model that wrote it: words that nobody wrote, repetitions, copies."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass

from yinggem.memory.copies import LEAST, find_copies
from yinggem.memory.stretches import blocks

GRAM = 4  # words


@dataclass(frozen=True)
class TextStats:
    """Shares from 0 to 1, and a length.

    Attributes:
        unknown_words: of the words (letters and digits, in small letters), how many the training text does not have.
        repeated_4grams: of the runs of four words, how many came before in the same text.
        longest_copy: words of the longest stretch that stands word for word in the training text.
    """

    unknown_words: float
    repeated_4grams: float
    longest_copy: int

    def __str__(self) -> str:
        return (
            f"{self.unknown_words:.1%} of the words are not in the training text, {self.repeated_4grams:.1%} of the "
            f"runs of {GRAM} words are repetitions, the longest copy has {self.longest_copy} "
            f"word{'s' * (self.longest_copy != 1)}"
        )

    def to_dict(self) -> dict[str, float]:
        """Plain data for a record."""
        return asdict(self)


def text_stats(text: str, training: Iterable[str], prompt: str = "") -> TextStats:
    """The figures of a text that was generated after `prompt`; a copy may begin in the prompt and end in the text.

    Args:
        training: the training text in chunks, of which one at a time is looked at.
    """
    words = _words(text)
    unknown = set(words)

    def passed_on() -> Iterator[str]:
        for block in blocks(training, LEAST):
            joined = LEAST.joined(block)
            if unknown:
                unknown.difference_update(_words(joined))
            yield joined + " "

    longest = find_copies(prompt + text, passed_on(), after=len(prompt)).longest
    grams = [*zip(*(text.split()[start:] for start in range(GRAM)), strict=False)]
    repeated = 1 - len(set(grams)) / len(grams) if grams else 0.0
    return TextStats(sum(word in unknown for word in words) / max(1, len(words)), repeated, longest)


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())
