"""The training, validation and test part of a text as cached token arrays."""

import itertools
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

import numpy as np

from yinggem.common.cache_folder import cached_file
from yinggem.common.checks import check_number
from yinggem.common.errors import UserError
from yinggem.text.corpus import Corpus, cache_folder_of
from yinggem.text.marks import EITHER
from yinggem.text.tokenizer import Tokenizer
from yinggem.text.tokens import token_cache
from yinggem.text.tokens.token_array import TokenArray

LEAST_DOCUMENTS = 10  # of a text whose documents are kept whole: of fewer, one could be half of it


@dataclass(frozen=True)
class TokenizedSplit:
    """Token ids of the splits, in memory-mapped shards, and the UTF-8 bytes each id stands for."""

    train: TokenArray  # (N,)
    val: TokenArray  # (M,)
    token_bytes: np.ndarray  # (V,) uint16
    fingerprint: str = ""  # of text, tokenizer and split; empty where it is not known
    test: TokenArray | None = None  # (K,) what nothing is chosen by

    @property
    def val_bytes(self) -> int:
        """UTF-8 bytes of the validation split that evaluation predicts: all but its first token's."""
        blocks = (self.val[i : i + (1 << 20)] for i in range(1, len(self.val), 1 << 20))
        return sum(int(self.token_bytes[block].sum(dtype=np.int64)) for block in blocks)


@dataclass(frozen=True)
class Cuts:
    """Where a text is cut.

    Args:
        val: the first character of the validation split.
        test: the first character of the test split, which is the last.
        whole: whether no document is cut.
    """

    val: int
    test: int
    whole: bool = False

    @classmethod
    def of(cls, corpus: Corpus, val_fraction: float = 0.1, test_fraction: float = 0.0) -> "Cuts":
        """Where the last so many characters begin; of a text of documents the nearest borders between them.

        Raises:
            UserError: a fraction is out of range, or both together leave nothing.
        """
        check_number("data.val_fraction", val_fraction, 0, 1, excluded="high")
        check_number("data.test_fraction", test_fraction, 0, 1, excluded="high")
        if val_fraction + test_fraction >= 1:
            raise UserError("data.val_fraction and data.test_fraction leave nothing to train on; lower one of them.")
        total = corpus.characters
        cuts = cls(int(total * (1 - val_fraction - test_fraction)), int(total * (1 - test_fraction)))
        if corpus.documents < LEAST_DOCUMENTS:
            return cuts
        inner = np.array(corpus.borders[:-1])
        test = _nearest(inner[1:], cuts.test) if test_fraction else total
        val = _nearest(inner[inner < test], cuts.val) if val_fraction else test
        return replace(cuts, val=val, test=test, whole=True)


def _nearest(places: np.ndarray, wanted: int) -> int:
    return int(places[np.abs(places - wanted).argmin()])


def tokenize(
    corpus: Corpus,
    tokenizer: Tokenizer,
    cache_dir: str | Path | None = None,
    val_fraction: float = 0.1,
    split_by: str = "characters",
    test_fraction: float = 0.0,
) -> TokenizedSplit:
    """Split the corpus and encode it, or take both from the cache.

    A tokenizer that is not fitted yet is fitted to the training split, or restored from the cache.
    `split_by="characters"` cuts the text and encodes the parts on their own, as nanoGPT does; a text of ten documents
    or more is cut between two of them. `split_by="tokens"` encodes the whole text and cuts the ids.

    Of a text of documents, ids begin with that of an end, as if a document had been before: so each has one before it.

    Raises:
        UserError: an option is out of range; the text does not suit the tokenizer; the cache cannot be written.
    """
    cuts = Cuts.of(corpus, val_fraction, test_fraction)
    if split_by not in ("characters", "tokens"):
        raise UserError(f"data.split_by must be characters or tokens, not {split_by!r}.")
    folder, total = cache_folder_of(cache_dir), corpus.characters
    if corpus.reading.has_documents or tokenizer.template is not None:  # one that comes from pairs has turns still
        tokenizer.mark_documents(corpus.reading.template if corpus.reading.has_pairs else None)
    if not tokenizer.is_fitted:
        _fit(corpus, tokenizer, folder, cuts.val)
    places = [cuts.val] if cuts.test == total else [cuts.val, cuts.test]
    key = token_cache.cache_key(corpus.fingerprint, tokenizer.fingerprint, split_by, *places)
    borders = [0, *places, total] if split_by == "characters" else [0, total]
    spans = list(itertools.pairwise(borders))

    cache = token_cache.TokenCache(folder, key, tokenizer, spans, corpus.iter_text, corpus.check_unchanged)
    parts = [_begun(part, tokenizer, cuts.whole or not k) for k, part in enumerate(cache.tokens())]
    if split_by == "tokens":
        (ids,) = parts
        first, second = (int(len(ids) * share) for share in (1 - val_fraction - test_fraction, 1 - test_fraction))
        parts = [ids.part(0, first), ids.part(first, second), ids.part(second)]
    test = parts[2] if len(parts) > 2 and len(parts[2]) else None
    return TokenizedSplit(parts[0], parts[1], tokenizer.token_byte_lengths, key, test)


def _begun(ids: TokenArray, tokenizer: Tokenizer, at_border: bool) -> TokenArray:
    """Ids that know where completions are, and that begin with the end of a document if they begin with one."""
    if tokenizer.end_id is None:
        return ids
    mark = np.array([tokenizer.end_id] if at_border and len(ids) else [], ids.dtype)
    turns = None if tokenizer.turn_id is None else (tokenizer.end_id, tokenizer.turn_id)
    return TokenArray([mark, *ids.pieces], ids.dtype, turns)


def _fit(corpus: Corpus, tokenizer: Tokenizer, folder: Path, cut: int) -> None:
    key = token_cache.cache_key(corpus.fingerprint, tokenizer.settings, cut)

    def build(file: BinaryIO) -> None:
        tokenizer.fit(lambda: _without_marks(corpus.iter_text(0, cut)))
        corpus.check_unchanged()
        token_cache.write_tokenizer(file, tokenizer)

    fitted = cached_file(
        folder / f"{key}.tokenizer", build, lambda path: token_cache.open_tokenizer(path, tokenizer.settings)
    )
    tokenizer.load_state_dict(fitted.state_dict())


def _without_marks(chunks: Iterable[str]) -> Iterator[str]:
    for chunk in chunks:
        yield from filter(None, re.split(EITHER, chunk))
