"""The memory beside a network: its training tokens, what counting them says, and how much that is believed."""

import lzma
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from yinggem.common.errors import UserError
from yinggem.memory.index import build_index, longest_ngram
from yinggem.memory.index_files import cached_bytes, cached_ids, cached_index
from yinggem.memory.mixture import SOURCES, SUMMARY, Mixture, fixed
from yinggem.memory.text_counts import TextCounts
from yinggem.memory.window_counts import score_windows, window_distribution

COUNTED_TOKENS = 1 << 24  # of a longer text the last so many are counted, which are nearest to what is asked about
MOST_TOKENS = 1 << 31  # of a checkpoint's memory
MOST_UNPACKED = 1 << 26  # tokens that are kept unpacked in the cache
READ_BACK = 1 << 16  # tokens of what a person typed that are counted, the last ones
DEEPER = (12, 16, 24)  # tokens of contexts that are looked for in a window beside all up to one more than in the text
SHORT = (1, 3)  # tokens of contexts in a window whose followers are a source of their own


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
    scoring: Mixture = None  # type: ignore[assignment]  # made in __post_init__
    generating: Mixture = None  # type: ignore[assignment]
    cache_dir: Path | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        # In few bytes, and alike in a run and in its checkpoint: then both find the same index.
        object.__setattr__(self, "ids", self.ids.astype(_kind(self.vocab_size), copy=False))
        for name in ("scoring", "generating"):
            if getattr(self, name) is None:
                object.__setattr__(self, name, fixed(*mixed(self.vocab_size)))

    @property
    def counted(self) -> np.ndarray:
        """The ids that are counted: the last COUNTED_TOKENS."""
        return self.ids[-COUNTED_TOKENS:]

    @property
    def longest(self) -> int:
        """Tokens of the longest context that is looked for in a window."""
        return DEEPER[-1]

    @cached_property
    def counts(self) -> TextCounts:
        """Of the training text, from an index that is made once for every text."""
        return TextCounts(cached_index(self.counted, self.vocab_size, self.cache_dir))

    @cached_property
    def compressed_ids(self) -> bytes:
        """`compressed`, made once for every text."""
        return cached_bytes(self.ids, self.vocab_size, lambda: compressed(self.ids, self.vocab_size), self.cache_dir)

    def reading_on(self, more: np.ndarray) -> "NgramMemory":
        """This memory when its text goes on with `more` (M,) ids; the index of that is kept nowhere."""
        grown = replace(self, ids=np.concatenate([self.ids, more.astype(self.ids.dtype)]))
        grown.__dict__["counts"] = TextCounts(build_index(grown.counted, self.vocab_size))
        return grown

    def sources(self, rows: np.ndarray, typed: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """What counting says of rows[:, 1:], for `rows` (B, T + 1) of ids.

        Args:
            typed: (B,) how many tokens of each row are counted, its first; None: all.

        Returns:
            Probabilities (B, T, S - 1): of the whole of the text's counts and of the window's, then of shorter contexts
            of both. The features (B, T, F) of the mixture: those of the longest contexts of both and the log of how
            many tokens stand before, then those of every context.
        """
        text, known = self.counts.score(rows)
        window, seen = score_windows(rows, self.vocab_size, window_orders(self.vocab_size), typed)
        positions = np.broadcast_to(np.log(np.arange(1, rows.shape[1]))[:, None], (*text.shape[:2], 1))
        return self._ordered(text, window), _arranged(known, seen, positions)

    def _ordered(self, text: np.ndarray, window: np.ndarray) -> np.ndarray:
        """(..., S - 1) of the probabilities of all contexts; those of no context in the text are left out."""
        short = window[..., short_orders(self.vocab_size)]
        return np.concatenate([text[..., -1:], window[..., -1:], text[..., 1:-1], short], -1)

    def score(self, rows: np.ndarray, network: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Nats of rows[:, 1:] for `rows` (B, T + 1) of ids: by counting alone, and by network and counting together.

        Args:
            network: (B, T) float64, the network's nats.
        """
        counted, features = self.sources(rows)
        alone = -np.log((self.scoring.weights(features, network=False)[..., 1:] * counted).sum(-1))
        return alone, -np.log((self.scoring.weights(features) * _with_network(network, counted)).sum(-1))

    def distribution(
        self, network: np.ndarray, context: np.ndarray, typed: np.ndarray, share: float = 1.0, length: int | None = None
    ) -> np.ndarray:
        """Probabilities (V,) of the next token while generating.

        Args:
            network: (V,) probabilities.
            context: (M,) ids before it, of which the last few count.
            typed: ids that a person typed: the only ones beside the training text whose followers are counted.
            share: 0 is the network alone, 1 the fitted mixture; above, what counts have of the sum is so many times as
                large, all of it at most.
            length: tokens before it, where `context` has only the last of them.
        """
        text, known = self.counts.distribution(context)
        orders = window_orders(self.vocab_size)
        window, seen = window_distribution(typed[-READ_BACK:], context, self.vocab_size, orders)
        weights = self.generating.weights(_arranged(known, seen, np.log([length or len(context)])))
        counted = min(share, 1 / (1 - weights[0])) * weights[1:]
        mixed: np.ndarray = (1 - counted.sum()) * network + self._ordered(text, window) @ counted
        return mixed

    def fitted(self, rows: np.ndarray, network: np.ndarray) -> "NgramMemory":
        """This memory with mixtures fitted to `rows` (B, T + 1) of text that neither it nor the network has seen.

        For generating, the beginning of a row is taken as typed and the rest as generated, which is not counted.

        Args:
            network: (B, T) float64, the network's nats.
        """
        counted, features = self.sources(rows)
        scoring = self.scoring.fitted(_flat(features), _flat(_with_network(network, counted)))
        typed = np.arange(len(rows)) % 4 * rows.shape[1] // 4  # prompts of several lengths, and none
        counted, features = self.sources(rows, typed)
        generated = np.arange(1, rows.shape[1]) >= typed[:, None]
        probabilities = _with_network(network, counted)[generated]
        generating = self.generating.fitted(features[generated], probabilities)
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
        scoring, generating = (
            Mixture.from_dict(content.get(name), *mixed(vocab_size)) for name in ("scoring", "generating")
        )
        return cls(_unpacked(packed, tokens, vocab_size), vocab_size, scoring, generating)


def compressed(ids: np.ndarray, vocab_size: int) -> bytes:
    """Ids (N,) as xz, each in as few whole bytes as the vocabulary allows; smaller than xz of the text."""
    kind = _kind(vocab_size)
    return lzma.compress(ids.astype(kind).tobytes(), lzma.FORMAT_XZ, filters=[_filter(kind.itemsize)])


def _unpacked(packed: bytes, tokens: int, vocab_size: int) -> np.ndarray:
    """As `decompressed`, which takes longer than to read what it made before."""
    if tokens > MOST_UNPACKED:
        return decompressed(packed, tokens, vocab_size)
    content = cached_ids(packed, f"{tokens} {vocab_size}", lambda: decompressed(packed, tokens, vocab_size).tobytes())
    return _checked(content, tokens, vocab_size)


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
    return _checked(content if reader.eof else b"", tokens, vocab_size)


def _checked(content: bytes, tokens: int, vocab_size: int) -> np.ndarray:
    """The ids that some bytes are; UserError where they are not so many, all below `vocab_size`."""
    kind = _kind(vocab_size)
    if len(content) != tokens * kind.itemsize:
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


def window_orders(vocab_size: int) -> tuple[int, ...]:
    """Tokens of the contexts that are looked for in a window."""
    return *range(longest_ngram(vocab_size) + 2), *DEEPER


def short_orders(vocab_size: int) -> list[int]:
    """Which of `window_orders` are a source of their own."""
    return [window_orders(vocab_size).index(order) for order in SHORT]


def mixed(vocab_size: int) -> tuple[int, int]:
    """How many features a mixture reads, and how many sources it weighs."""
    longest, orders = longest_ngram(vocab_size), len(window_orders(vocab_size))
    return SUMMARY + 2 * (longest - 1) + 2 * orders, len(SOURCES) + (longest - 2) + len(SHORT)


def _arranged(text: np.ndarray, window: np.ndarray, position: np.ndarray) -> np.ndarray:
    """The features of text, window and position, those of the longest contexts first."""
    parts = [text[..., :3], window[..., :3], position, text[..., 3:], window[..., 3:]]
    return np.concatenate(parts, -1)


def _with_network(nats: np.ndarray, counted: np.ndarray) -> np.ndarray:
    """The network's probabilities before those of counting: (B, T, S)."""
    return np.concatenate([np.exp(-nats)[..., None], counted], -1)


def _flat(array: np.ndarray) -> np.ndarray:
    return array.reshape(-1, array.shape[-1])
