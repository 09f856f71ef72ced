"""One uniform number a token, from a seed and a position alone: the same text on every engine, alone or in a batch.

The numbers are those of Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"), which turns
a counter into random bits. There is no state to carry: whatever draws the token at some position of a text, in Python,
in C or in a browser, finds the same number.
"""

import numpy as np

ROUNDS = 10
MULTIPLIERS = 0xD2511F53, 0xCD9E8D57
WEYL = 0x9E3779B9, 0xBB67AE85  # what the key grows by after each round
WORD = 0xFFFFFFFF


def philox(counter: tuple[int, int, int, int], key: tuple[int, int]) -> tuple[int, int, int, int]:
    """The random words, each of 32 bits, of a counter under a key."""
    (a, b, c, d), (left, right) = counter, key
    for _ in range(ROUNDS):
        first, second = MULTIPLIERS[0] * a, MULTIPLIERS[1] * c
        a, b, c, d = (second >> 32) ^ b ^ left, second & WORD, (first >> 32) ^ d ^ right, first & WORD
        left, right = (left + WEYL[0]) & WORD, (right + WEYL[1]) & WORD
    return a, b, c, d


def uniform(seed: int, position: int) -> float:
    """A number from [0, 1) with 53 random bits.

    Args:
        seed: of the sample, modulo 2**64.
        position: how many tokens the sample has so far, those of its prompt not counted.
    """
    words = philox((position & WORD, position >> 32 & WORD, 0, 0), (seed & WORD, seed >> 32 & WORD))
    return ((words[0] >> 5) * 67108864 + (words[1] >> 6)) / 9007199254740992  # 2**26 and 2**53


def draw(logits: np.ndarray, number: float) -> int:
    """The first id up to which the probabilities sum to more than `number`, from [0, 1), of their total.

    In float64, rounding moves a number across a boundary about once in a million tokens.

    Args:
        logits: (V,) floats; -inf marks what may not be drawn, and something may be.
    """
    mass = np.exp(logits - logits.max(), dtype=np.float64).cumsum()
    below = min(number * mass[-1], np.nextafter(mass[-1], 0))  # past the last id that may be drawn there is nothing
    return int(mass.searchsorted(below, side="right"))
