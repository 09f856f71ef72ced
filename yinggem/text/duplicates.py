"""Documents of the held-out splits that stand in the training split as well, exactly or nearly.

Candidates for near duplicates are those whose sketches share hashes, found in a sorted array: so time grows with the
text and not with its square.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from yinggem.common.cache_folder import cached_file
from yinggem.common.errors import one_line
from yinggem.text.corpus import Corpus, cache_folder_of
from yinggem.text.documents import iter_text
from yinggem.text.files.compression import Source
from yinggem.text.marks import END
from yinggem.text.sketches import Sketches, are_near
from yinggem.text.splitting import LEAST_DOCUMENTS, Cuts
from yinggem.text.tokens import token_cache

FOLLOWED = 4  # held-out documents that are looked at for one hash: a phrase that all share leads nowhere
DOCUMENT_CHARACTERS = 1 << 20  # of a document that are compared nearly; all are compared exactly
BATCH_CHARACTERS = 1 << 20  # of documents that are hashed at once
NAMED = 3  # pairs in the sentence


@dataclass(frozen=True)
class Document:
    """One document: where it is, the beginning of its text, and a hash of all of it."""

    source: Source
    number: int  # in its source, from 1 on
    text: str
    digest: bytes

    def name(self, alone: bool) -> str:
        """What a user calls it; `alone`: its source holds no other."""
        file = str(self.source) if isinstance(self.source, Path) else "the shipped text"
        return file if alone else f"{file} ({self.number:,})"


def notes_on_split(corpus: Corpus, how: tuple[float, str, float], cache_dir: str | Path | None = None) -> list[str]:
    """What the user should know of a text of documents and its split, each on one line.

    Args:
        how: val_fraction, split_by and test_fraction, as `yinggem.text.splitting.tokenize`.
    """
    if not corpus.reading.has_documents:
        return []
    if corpus.documents == 1:
        nowhere = " (data.separator matches nowhere)" if corpus.reading.separator else ""
        return [f"The whole text is one document{nowhere}, of which a part is in each split."]
    cuts = Cuts.of(corpus, how[0], how[2])
    if not cuts.whole or how[1] == "tokens":
        few = f"fewer than {LEAST_DOCUMENTS}, so " if corpus.documents < LEAST_DOCUMENTS else ""
        return [f"The text has {corpus.documents:,} documents, {few}one of them may be in both splits."]
    if cuts.val == corpus.characters:
        return []
    key = token_cache.cache_key("duplicates", corpus.fingerprint, corpus.files_digest, cuts.val)
    path = cache_folder_of(cache_dir) / f"{key}.json"

    def build(file: BinaryIO) -> None:
        file.write(json.dumps({"note": duplicates_note(corpus, cuts.val)}).encode())

    note = cached_file(path, build, _read_note)
    return [note] if note else []


def _read_note(path: Path) -> str | None:
    try:
        note = json.loads(path.read_bytes())["note"]
        return note if isinstance(note, str) else None
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return None


def duplicates_note(corpus: Corpus, cut: int) -> str:
    """One line that counts and names the documents from character `cut` on that also stand before it, or ""."""
    held_out = _HeldOut(document for document, start in documents(corpus) if start >= cut)
    exact: dict[int, Document] = {}  # held-out document -> one like it in the training split
    near: dict[int, Document] = {}
    for batch in _batches(document for document, start in documents(corpus) if start < cut):
        rest = []
        for document in batch:
            found = held_out.places.get(document.digest)
            if found is None:
                rest.append(document)
            else:
                exact.setdefault(found, document)
        for place, number in held_out.near(rest):
            near.setdefault(place, rest[number])
    near = {place: document for place, document in near.items() if place not in exact}
    if not exact and not near:
        return ""
    alone = corpus.reading.documents == "files"
    both = [f"{held_out.names[k].name(alone)} = {exact[k].name(alone)}" for k in sorted(exact)]
    both += [f"{held_out.names[k].name(alone)} ~ {near[k].name(alone)}" for k in sorted(near)]
    shown = ", ".join(both[:NAMED]) + (" ..." if len(both) > NAMED else "")
    counted = sum(held_out.counts[k] for k in exact)
    return one_line(
        f"{counted:,} of {held_out.total:,} documents outside the training split stand in it as well, and "
        f"{len(near):,} nearly so ({shown}); they make the figures look too good: remove them."
    )


def documents(corpus: Corpus) -> Iterator[tuple[Document, int]]:
    """Every document and its first character's place, in order."""
    current: Source = b""
    number, start, position, size = 0, 0, 0, 0
    digest, parts = hashlib.blake2b(digest_size=12), list[str]()

    def watched() -> Iterator[Source]:
        nonlocal current, number
        for current in corpus.sources:
            number = 0
            yield current

    for piece in iter_text(watched(), corpus.reading):
        position += len(piece)
        if piece != END:
            digest.update(piece.encode("utf-8", "surrogatepass"))
            if size < DOCUMENT_CHARACTERS:
                parts.append(piece)
            size += len(piece)
            continue
        number += 1
        yield Document(current, number, "".join(parts)[:DOCUMENT_CHARACTERS], digest.digest()), start
        digest, parts, size, start = hashlib.blake2b(digest_size=12), [], 0, position


def _batches(found: Iterable[Document]) -> Iterator[list[Document]]:
    batch, size = [], 0
    for document in found:
        batch.append(document)
        size += len(document.text)
        if size >= BATCH_CHARACTERS:
            yield batch
            batch, size = [], 0
    yield batch


class _HeldOut:
    """The documents that training documents are looked up in."""

    def __init__(self, found: Iterable[Document]) -> None:
        self.places: dict[bytes, int] = {}  # digest -> place among the different documents
        self.names: list[Document] = []
        self.counts: list[int] = []  # how often each stands there
        self.total, self._sketches = 0, Sketches()
        hashes, owners, sizes = [], [], []
        for batch in _batches(found):
            self.total += len(batch)
            new = [document for document in batch if self._is_new(document)]
            some, of, size = self._sketches.of([document.text for document in new])
            hashes.append(some)
            owners.append(of + len(self.names))
            sizes.append(size)
            self.names += [Document(document.source, document.number, "", b"") for document in new]
        self._sizes = np.concatenate(sizes)
        self._hashes, self._owners = np.concatenate(hashes), np.concatenate(owners)
        self._starts = np.searchsorted(self._owners, np.arange(len(self.names) + 1))
        order = np.argsort(self._hashes, kind="stable")
        self._sorted, self._sorted_owners = self._hashes[order], self._owners[order]

    def _is_new(self, document: Document) -> bool:
        place = self.places.setdefault(document.digest, len(self.counts))
        if place < len(self.counts):
            self.counts[place] += 1
            return False
        self.counts.append(1)
        return True

    def near(self, batch: list[Document]) -> Iterator[tuple[int, int]]:
        """(place, number in the batch) of near duplicates."""
        hashes, owners, sizes = self._sketches.of([document.text for document in batch])
        low, high = (np.searchsorted(self._sorted, hashes, side) for side in ("left", "right"))
        pairs = []
        for step in range(FOLLOWED):
            met = low + step < high
            pairs.append(owners[met].astype(np.int64) * len(self.names) + self._sorted_owners[low[met] + step])
        candidates, shared = np.unique(np.concatenate(pairs), return_counts=True)
        limits = np.searchsorted(owners, np.arange(len(batch) + 1))
        for candidate, common in zip(candidates.tolist(), shared.tolist(), strict=True):
            number, place = divmod(candidate, len(self.names))
            mine = hashes[limits[number] : limits[number + 1]]
            theirs = self._hashes[self._starts[place] : self._starts[place + 1]]
            likely = common * 4 >= min(len(mine), len(theirs))
            if likely and are_near(mine, theirs, int(sizes[number]), int(self._sizes[place])):
                yield place, number
