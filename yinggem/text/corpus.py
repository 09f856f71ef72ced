"""From a name or a path to a verified text."""

import hashlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from yinggem.common.cache_folder import default_cache_dir, usable_folder
from yinggem.common.errors import UserError, one_line
from yinggem.common.progress_bar import show_progress
from yinggem.common.verified_files import Files, recall, remember
from yinggem.text.assets import SHAKESPEARE, read_asset
from yinggem.text.documents import Borders, iter_text
from yinggem.text.files.compression import Source
from yinggem.text.files.formats import named_suffixes
from yinggem.text.files.text_files import FileList, find_copies, find_text_files, state_of_files
from yinggem.text.files.tinyshakespeare import find_tinyshakespeare
from yinggem.text.marks import END
from yinggem.text.reading import DEFAULT, Reading
from yinggem.text.tokens import token_cache

NAMED = ("shakespeare", "tinyshakespeare")  # texts that are known by name; any other is at a path
CHUNK_CHARACTERS = 1 << 20
MOST_NAMED = 100  # files that are copies of others


@dataclass(frozen=True)
class Corpus:
    """A text that was read once from end to end: valid, its length and hash known.

    `sources` are read again by every `iter_text`, so that a text of any size needs little memory.

    Attributes:
        characters: with one for the end of every document.
        fingerprint: SHA-256 of the text, however files divide it.
        copies: paths of files that hold the same bytes as another file of the text, at most MOST_NAMED of them.
        documents, borders: how many there are, and characters before which they end (see `documents.Borders`).
        empty: files or rows that are left out because nothing is in them.
    """

    sources: FileList | tuple[Source, ...] = field(compare=False)
    reading: Reading
    characters: int
    fingerprint: str
    copies: tuple[str, ...]
    copies_count: int
    documents: int
    borders: tuple[int, ...]
    empty: int
    _files: Files = field(repr=False)

    def iter_text(self, start: int = 0, stop: int | None = None) -> Iterator[str]:
        """Characters start .. stop-1, in chunks that depend on the text alone, not on how files divide it."""
        stop = self.characters if stop is None else stop
        position = 0
        for chunk in _chunks(iter_text(self.sources, self.reading)):
            if position >= stop:
                return
            part = chunk[max(0, start - position) : stop - position]
            position += len(chunk)
            if part:
                yield part

    @property
    def files_digest(self) -> str:
        """Stands for the names, sizes and times of its files."""
        return self._files.digest

    def check_unchanged(self) -> None:
        """UserError when a file was changed after it was verified."""
        if state_of_files(self.sources) != self._files:
            raise UserError("The text files of data.path changed while they were being read; start again.")

    @property
    def notes(self) -> list[str]:
        """What the user should know of the text, each on one line; mostly nothing."""
        found = []
        if self.copies:
            shown = ", ".join(self.copies[:3]) + (" ..." if self.copies_count > 3 else "")
            found.append(
                f"{self.copies_count} of {len(self.sources)} files are copies of others ({shown}); "
                "text that is in both splits makes the validation loss look too good."
            )
        if self.empty:
            found.append(f"Empty documents are left out: {self.empty:,} of {self.documents + self.empty:,}.")
        return [one_line(sentence) for sentence in found]


def open_corpus(
    source: str, path: str | Path | None = None, cache_dir: str | Path | None = None, reading: Reading = DEFAULT
) -> Corpus:
    """Open and verify a text.

    Args:
        source: "shakespeare" (ships with the package), "tinyshakespeare" (`path`, else a cached copy, else a verified
            download), or "text" (`path`: as `find_text_files`). Several files are joined in the order of their paths,
            with a line end between two where the first lacks one.
        reading: what in the files is the text, and which parts of it are documents.

    Raises:
        UserError: unknown source; a path for the text that ships; a path that is missing, unreadable or empty;
            a file that is not what its suffix or `reading` says.
    """
    folder = cache_folder_of(cache_dir)
    sources: FileList | tuple[Source, ...]
    if source == "shakespeare":
        if path is not None:
            raise UserError(f"data=shakespeare ships with the package; write data=text to use data.path={path}.")
        sources = (read_asset(SHAKESPEARE),)
    elif source == "tinyshakespeare":
        sources = (find_tinyshakespeare(path, folder),)
    elif source == "text":
        if path is None or not str(path):
            raise UserError(f"data=text needs data.path=FILE, a folder of {named_suffixes()} files or a glob.")
        sources = find_text_files(path, folder)
    else:
        raise UserError(f"data.source={source!r} is unknown; choose {', '.join(NAMED)} or text.")
    return _verified(sources, reading, source if path is None else os.path.abspath(path), folder)


def _verified(sources: FileList | tuple[Source, ...], reading: Reading, place: str, folder: Path) -> Corpus:
    files = state_of_files(sources)
    note = folder / f"{token_cache.cache_key('text', place, reading.to_dict())}.text"
    known = recall(note, files)
    if known is None:
        known = _read_through(sources, reading, files.bytes)
        # Whole documents that are copies are found where it matters, between the two splits.
        copies = find_copies(sources) if files.count > 1 and not reading.has_documents else []
        known |= {"copies": copies[:MOST_NAMED], "copies_count": len(copies)}
        remember(note, files, known)
    known |= {name: tuple(known[name]) for name in ("copies", "borders")}
    corpus = Corpus(sources, reading, **known, _files=files)
    if not corpus.characters:
        what = "holds no completion" if reading.has_pairs and corpus.empty else "is empty"
        raise UserError(f"data.path={place} {what}; name a file with text in it.")
    return corpus


def _read_through(sources: Iterable[Source], reading: Reading, size: int) -> dict[str, Any]:
    """What a Corpus knows of its text; UserError when a reader refuses part of it."""
    digest, characters, borders, empty = hashlib.sha256(), 0, Borders(), 0

    def count_empty() -> None:
        nonlocal empty
        empty += 1

    with show_progress("Reading", size) as advance:
        for text in iter_text(sources, reading, advance, count_empty):
            digest.update(text.encode("utf-8", "surrogatepass"))
            characters += len(text)
            if text == END:
                borders.add(characters)
    found: dict[str, Any] = {"characters": characters, "fingerprint": digest.hexdigest()}
    return found | {"documents": borders.count, "borders": borders.positions(), "empty": empty}


def cache_folder_of(cache_dir: str | Path | None) -> Path:
    """The folder that is named, else the user's."""
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
