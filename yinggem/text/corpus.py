"""From a name or a path to a verified text, and from the text to cached token arrays."""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import numpy as np

from yinggem.common.cache_folder import cached_file, default_cache_dir, usable_folder
from yinggem.common.checks import check_number
from yinggem.common.errors import UserError, one_line
from yinggem.common.progress_bar import show_progress
from yinggem.common.verified_files import FileState, recall, remember
from yinggem.text import token_cache
from yinggem.text.assets import SHAKESPEARE, read_asset
from yinggem.text.formats import READERS, Source, iter_text
from yinggem.text.text_files import find_copies, find_text_files, states_of
from yinggem.text.tinyshakespeare import find_tinyshakespeare
from yinggem.text.token_array import TokenArray
from yinggem.text.tokenizer import Tokenizer

NAMED = ("shakespeare", "tinyshakespeare")  # texts that are known by name; any other is at a path
CHUNK_CHARACTERS = 1 << 20


@dataclass(frozen=True)
class Corpus:
    """A text that was read once from end to end: valid, its length and hash known.

    `sources` are read again by every `iter_text`, so that a text of any size needs little memory.

    Attributes:
        fingerprint: SHA-256 of the text, however files divide it.
        copies: paths of files that hold the same bytes as another file of the text.
    """

    sources: tuple[Source, ...]
    characters: int
    fingerprint: str
    copies: tuple[str, ...]
    _states: list[FileState] = field(repr=False)

    def iter_text(self, start: int = 0, stop: int | None = None) -> Iterator[str]:
        """Characters start .. stop-1, in chunks that depend on the text alone, not on how files divide it."""
        stop = self.characters if stop is None else stop
        position = 0
        for chunk in _chunks(iter_text(self.sources)):
            if position >= stop:
                return
            part = chunk[max(0, start - position) : stop - position]
            position += len(chunk)
            if part:
                yield part

    def check_unchanged(self) -> None:
        """UserError when a file was changed after it was verified."""
        if states_of(self.sources) != self._states:
            raise UserError("The text files of data.path changed while they were being read; start again.")

    @property
    def note(self) -> str:
        """What the user should know of the text, on one line; mostly nothing."""
        if not self.copies:
            return ""
        shown = ", ".join(self.copies[:3]) + (" ..." if len(self.copies) > 3 else "")
        return one_line(
            f"{len(self.copies)} of {len(self.sources)} files are copies of others ({shown}); "
            "text that is in both splits makes the validation loss look too good."
        )


@dataclass(frozen=True)
class TokenizedSplit:
    """Token ids of the two splits, in memory-mapped shards, and the UTF-8 bytes each id stands for."""

    train: TokenArray  # (N,)
    val: TokenArray  # (M,)
    token_bytes: np.ndarray  # (V,) uint16
    fingerprint: str = ""  # of text, tokenizer and split; empty where it is not known

    @property
    def val_bytes(self) -> int:
        """UTF-8 bytes of the validation split that evaluation predicts: all but its first token's."""
        blocks = (self.val[i : i + (1 << 20)] for i in range(1, len(self.val), 1 << 20))
        return sum(int(self.token_bytes[block].sum(dtype=np.int64)) for block in blocks)


def open_corpus(source: str, path: str | Path | None = None, cache_dir: str | Path | None = None) -> Corpus:
    """Open and verify a text.

    Args:
        source: "shakespeare" (ships with the package), "tinyshakespeare" (`path`, else a cached copy, else a verified
            download), or "text" (`path`: as `find_text_files`). Several files are joined in the order of their paths,
            with a line end between two where the first lacks one.

    Raises:
        UserError: unknown source; a path for the text that ships; a path that is missing, unreadable or empty;
            bytes that are not UTF-8.
    """
    folder = _cache_dir(cache_dir)
    sources: tuple[Source, ...]
    if source == "shakespeare":
        if path is not None:
            raise UserError(f"data=shakespeare ships with the package; write data=text to use data.path={path}.")
        sources = (read_asset(SHAKESPEARE),)
    elif source == "tinyshakespeare":
        sources = (find_tinyshakespeare(path, folder),)
    elif source == "text":
        if path is None or not str(path):
            raise UserError(f"data=text needs data.path=FILE, a folder of {' or '.join(READERS)} files or a glob.")
        sources = find_text_files(path, folder)
    else:
        raise UserError(f"data.source={source!r} is unknown; choose {', '.join(NAMED)} or text.")
    return _verified(sources, path, folder)


def _verified(sources: tuple[Source, ...], path: str | Path | None, folder: Path) -> Corpus:
    states = states_of(sources)
    note = folder / f"{token_cache.cache_key('text and copies', [name for name, *_ in states])}.text"
    known = recall(note, states)
    if known is None:
        known = [*_read_through(sources, sum(size for _, size, *_ in states)), find_copies(states)]
        remember(note, states, known)
    characters, fingerprint, copies = known
    if not characters:
        raise UserError(f"data.path={path} is empty; name a file with text in it.")
    return Corpus(sources, characters, fingerprint, tuple(copies), states)


def _read_through(sources: tuple[Source, ...], size: int) -> tuple[int, str]:
    """Number of characters and SHA-256 of the text; UserError when a reader refuses part of it."""
    digest, characters = hashlib.sha256(), 0
    with show_progress("Reading", size) as advance:
        for text in iter_text(sources):
            encoded = text.encode()
            digest.update(encoded)
            characters += len(text)
            advance(len(encoded))
    return characters, digest.hexdigest()


def tokenize(
    corpus: Corpus,
    tokenizer: Tokenizer,
    cache_dir: str | Path | None = None,
    val_fraction: float = 0.1,
    split_by: str = "characters",
) -> TokenizedSplit:
    """Split the corpus and encode it, or take both from the cache.

    A tokenizer that is not fitted yet is fitted to the first `1 - val_fraction` of the characters, or restored from the
    cache. `split_by="characters"` cuts the text there and encodes the two parts on their own, as nanoGPT does;
    `split_by="tokens"` encodes the whole text and cuts the ids.

    Raises:
        UserError: an option is out of range; the text does not suit the tokenizer; the cache cannot be written.
    """
    check_number("data.val_fraction", val_fraction, 0, 1, excluded="high")
    if split_by not in ("characters", "tokens"):
        raise UserError(f"data.split_by must be characters or tokens, not {split_by!r}.")
    folder = _cache_dir(cache_dir)
    cut = int(corpus.characters * (1 - val_fraction))
    if not tokenizer.is_fitted:
        _fit(corpus, tokenizer, folder, cut)
    key = token_cache.cache_key(corpus.fingerprint, tokenizer.fingerprint, split_by, cut)
    spans = [(0, cut), (cut, corpus.characters)] if split_by == "characters" else [(0, corpus.characters)]

    cache = token_cache.TokenCache(folder, key, tokenizer, spans, corpus.iter_text, corpus.check_unchanged)
    parts = cache.tokens()
    if split_by == "tokens":
        border = int(len(parts[0]) * (1 - val_fraction))
        parts = [parts[0].part(0, border), parts[0].part(border)]
    return TokenizedSplit(parts[0], parts[1], tokenizer.token_byte_lengths, key)


def _fit(corpus: Corpus, tokenizer: Tokenizer, folder: Path, cut: int) -> None:
    key = token_cache.cache_key(corpus.fingerprint, tokenizer.settings, cut)

    def build(file: BinaryIO) -> None:
        tokenizer.fit(lambda: corpus.iter_text(0, cut))
        corpus.check_unchanged()
        token_cache.write_tokenizer(file, tokenizer)

    fitted = cached_file(
        folder / f"{key}.tokenizer", build, lambda path: token_cache.open_tokenizer(path, tokenizer.settings)
    )
    tokenizer.load_state_dict(fitted.state_dict())


def _cache_dir(cache_dir: str | Path | None) -> Path:
    return default_cache_dir() if cache_dir is None else usable_folder(Path(cache_dir).expanduser())


def _chunks(texts: Iterable[str]) -> Iterator[str]:
    """The same text in chunks of CHUNK_CHARACTERS, the last one shorter."""
    parts: list[str] = []
    size = 0
    for text in texts:
        parts.append(text)
        size += len(text)
        if size >= CHUNK_CHARACTERS:
            joined = "".join(parts)
            whole = size - size % CHUNK_CHARACTERS
            yield from (joined[i : i + CHUNK_CHARACTERS] for i in range(0, whole, CHUNK_CHARACTERS))
            parts, size = [joined[whole:]], size - whole
    if size:
        yield "".join(parts)
