"""The memory beside a network: its training tokens, what counting them says, and how much that is believed."""

import lzma
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from yinggem.common.errors import UserError
from yinggem.memory.index import longest_ngram
from yinggem.memory.index_files import cached_bytes, cached_index
from yinggem.memory.mixture import FIXED, Mixture
from yinggem.memory.text_counts import TextCounts
from yinggem.memory.window_counts import score_windows, window_distribution

COUNTED_TOKENS = 1 << 24  # of a longer text the last so many are counted, which are nearest to what is asked about
MOST_TOKENS = 1 << 31  # of a checkpoint's memory
READ_BACK = 1 << 16  # tokens of what a person typed that are counted, the last ones
WINDOW = 2, slice(3, 6)  # where the window stands among the sources, and among the features
ALL, COUNTING = (True, True, True), (False, True, True)  # of yinggem.memory.mixture.SOURCES


@dataclass(frozen=True)
class NgramMemory:
    """What counting knows of a training text.

    Args:
        ids: (N,) unsigned integers below `vocab_size`, the tokens of the training split.
        scoring: the mixture where all that stands before a token in its window is counted.
        generating: the mixture where what a person typed is counted, and what was generated is not.
        cache_dir: where the index is kept; None: the user's cache folder.
    """

    ids: np.ndarray
    vocab_size: int
    scoring: Mixture = FIXED
    generating: Mixture = FIXED
    cache_dir: Path | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        # In few bytes, and alike in a run and in its checkpoint: then both find the same index.
        object.__setattr__(self, "ids", self.ids.astype(_kind(self.vocab_size), copy=False))

    @property
    def counted(self) -> np.ndarray:
        """The ids that are counted: the last COUNTED_TOKENS."""
        return self.ids[-COUNTED_TOKENS:]

    @property
    def longest(self) -> int:
        """Tokens of the longest context that is looked for in a window."""
        return longest_ngram(self.vocab_size) + 1

    @cached_property
    def counts(self) -> TextCounts:
        """Of the training text, from an index that is made once for every text."""
        return TextCounts(cached_index(self.counted, self.vocab_size, self.cache_dir))

    @cached_property
    def compressed_ids(self) -> bytes:
        """`compressed`, made once for every text."""
        return cached_bytes(self.ids, self.vocab_size, lambda: compressed(self.ids, self.vocab_size), self.cache_dir)

    def _all_sources(self, rows: np.ndarray, network: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """As `sources`, the network's probabilities before the others: (B, T, 3)."""
        counted, features = self.sources(rows)
        return np.concatenate([np.exp(-network)[..., None], counted], -1), features

    def sources(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What counting says of rows[:, 1:], for `rows` (B, T + 1) of ids.

        Returns:
            Probabilities (B, T, 2) of the text and of the window, and the features (B, T, F) of the mixture.
        """
        text, known = self.counts.score(rows)
        window, seen = score_windows(rows, self.vocab_size, self.longest)
        return np.stack([text, window], -1), np.concatenate([known, seen, _positions(*text.shape)], -1)

    def score(self, rows: np.ndarray, network: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Nats of rows[:, 1:] for `rows` (B, T + 1) of ids: by counting alone, and by network and counting together.

        Args:
            network: (B, T) float64, the network's nats.
        """
        probabilities, features = self._all_sources(rows, network)
        alone, together = (
            -np.log((self.scoring.weights(features, sources) * probabilities).sum(-1)) for sources in (COUNTING, ALL)
        )
        return alone, together

    def distribution(
        self, network: np.ndarray, context: np.ndarray, typed: np.ndarray, share: float = 1.0, length: int | None = None
    ) -> np.ndarray:
        """Probabilities (V,) of the next token while generating.

        Args:
            network: (V,) probabilities.
            context: (M,) ids before it, of which the last few count.
            typed: ids that a person typed: the only ones beside the training text whose followers are counted.
            share: how far from the network, 0, to the fitted mixture, 1.
            length: tokens before it, where `context` has only the last of them.
        """
        text, known = self.counts.distribution(context)
        window, seen = window_distribution(typed[-READ_BACK:], context, self.vocab_size, self.longest)
        features = np.concatenate([known, seen, [np.log(length or len(context))]])
        weights = self.generating.weights(features) * share
        weights[0] += 1 - share
        return weights[0] * network + weights[1] * text + weights[2] * window

    def fitted(self, rows: np.ndarray, network: np.ndarray) -> "NgramMemory":
        """This memory with mixtures fitted to `rows` (B, T + 1) of text that neither it nor the network has seen.

        For generating, the beginning of a row is taken as typed and the rest as generated, which is not counted.

        Args:
            network: (B, T) float64, the network's nats.
        """
        probabilities, features = self._all_sources(rows, network)
        scoring = self.scoring.fitted(_flat(features), _flat(probabilities), ALL)
        typed = np.arange(len(rows)) % 4 * rows.shape[1] // 4  # prompts of several lengths, and none
        source, about = WINDOW
        probabilities[..., source], features[..., about] = score_windows(rows, self.vocab_size, self.longest, typed)
        generated = np.arange(1, rows.shape[1]) >= typed[:, None]
        generating = self.generating.fitted(features[generated], probabilities[generated], ALL)
        return replace(self, scoring=scoring, generating=generating)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, the compressed ids excepted."""
        mixtures = {"scoring": self.scoring.to_dict(), "generating": self.generating.to_dict()}
        return {"tokens": len(self.ids), "vocab_size": self.vocab_size, **mixtures}

    @classmethod
    def from_dict(cls, content: Any, packed: bytes) -> "NgramMemory":
        """The inverse of `to_dict` and `compressed_ids`; UserError for anything else: it may come from anybody."""
        if not isinstance(content, dict):
            raise UserError("The memory is damaged.")
        tokens, vocab_size = content.get("tokens"), content.get("vocab_size")
        if not (type(tokens) is int and 1 <= tokens <= MOST_TOKENS and type(vocab_size) is int and vocab_size >= 1):
            raise UserError("The memory is damaged.")
        scoring, generating = (Mixture.from_dict(content.get(name)) for name in ("scoring", "generating"))
        return cls(decompressed(packed, tokens, vocab_size), vocab_size, scoring, generating)


def compressed(ids: np.ndarray, vocab_size: int) -> bytes:
    """Ids (N,) as xz, each in as few whole bytes as the vocabulary allows; smaller than xz of the text."""
    kind = _kind(vocab_size)
    return lzma.compress(ids.astype(kind).tobytes(), lzma.FORMAT_XZ, filters=[_filter(kind.itemsize)])


def decompressed(packed: bytes, tokens: int, vocab_size: int) -> np.ndarray:
    """The inverse of `compressed`.

    Raises:
        UserError: there are not exactly so many ids, all below `vocab_size`. What is longer is not unpacked.
    """
    kind, reader = _kind(vocab_size), lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=1 << 28)
    try:
        content = reader.decompress(packed, tokens * kind.itemsize + 1)
    except lzma.LZMAError:
        raise UserError("The memory is damaged.") from None
    if len(content) != tokens * kind.itemsize or not reader.eof:
        raise UserError(f"The memory does not hold the {tokens:,} tokens that it declares.")
    ids = np.frombuffer(content, kind)
    if int(ids.max()) >= vocab_size:
        raise UserError(f"The memory holds an id outside the vocabulary of {vocab_size:,}.")
    return ids


def _kind(vocab_size: int) -> np.dtype:
    return np.dtype("<u1" if vocab_size <= 1 << 8 else "<u2" if vocab_size <= 1 << 16 else "<u4")


def _filter(width: int) -> dict[str, int]:
    """Of xz: the bytes of an id take turns, so the position of a byte tells something of it."""
    bits = width.bit_length() - 1
    return {"id": lzma.FILTER_LZMA2, "preset": 6, "lc": min(3, 4 - bits), "lp": bits, "pb": bits}


def _positions(batch: int, length: int) -> np.ndarray:
    """(B, T, 1): the log of how many tokens stand before, a feature of the mixture."""
    return np.broadcast_to(np.log(np.arange(1, length + 1))[None, :, None], (batch, length, 1))


def _flat(array: np.ndarray) -> np.ndarray:
    return array.reshape(-1, array.shape[-1])
