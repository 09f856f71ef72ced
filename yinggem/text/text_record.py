"""Which text a model was trained on, as its checkpoint says: enough to find the same text and the same split again."""

import os
from dataclasses import asdict, dataclass
from typing import Any

from yinggem.common.cache_folder import default_cache_dir, usable_folder
from yinggem.common.checks import check_number
from yinggem.common.errors import UserError
from yinggem.common.files import is_url
from yinggem.text.corpus import open_corpus
from yinggem.text.reading import DEFAULT, Reading
from yinggem.text.splitting import TokenizedSplit, tokenize
from yinggem.text.tokenizer import Tokenizer
from yinggem.text.tokens.token_shards import open_shards, open_training, read_validation


@dataclass(frozen=True)
class TextRecord:
    """A text, and where it is cut into a training and a validation split.

    Attributes:
        source, path: as `yinggem.text.corpus.open_corpus`; or source "streaming" and the folder or URL of token shards.
        val_fraction, split_by, test_fraction: as `yinggem.text.splitting.tokenize`; unused for token shards, which are
            split already.
        fingerprint: of the text as it was; empty where it is not known.
        reading: how its files are read.
    """

    source: str
    path: str | None = None
    val_fraction: float = 0.1
    split_by: str = "characters"
    fingerprint: str = ""
    test_fraction: float = 0.0
    reading: Reading = DEFAULT

    @property
    def name(self) -> str:
        """What a user calls it."""
        return self.path or self.source

    def to_dict(self) -> dict[str, Any]:
        """Plain data for a checkpoint; the path is absolute: a checkpoint may be evaluated from any folder."""
        path = self.path if self.path is None or is_url(self.path) else os.path.abspath(os.path.expanduser(self.path))
        return asdict(self) | {"path": path, "reading": self.reading.to_dict()}

    @classmethod
    def from_dict(cls, data: Any) -> "TextRecord":
        """The record that `to_dict` made; UserError for anything else: a checkpoint may come from anybody."""
        kinds = {"source": str, "path": str | None, "val_fraction": float | int, "split_by": str, "fingerprint": str,
                 "test_fraction": float | int, "reading": dict}  # fmt: skip
        data = {"test_fraction": 0.0, "reading": {}} | data if isinstance(data, dict) else data  # earlier versions
        if not isinstance(data, dict) or not all(isinstance(data.get(name), kind) for name, kind in kinds.items()):
            raise UserError("The checkpoint's record of its text is damaged; name a text with --data.")
        for name in ("val_fraction", "test_fraction"):
            check_number(f"The checkpoint's {name}", data[name], 0, 1, excluded="high")
        return cls(**{name: data[name] for name in kinds} | {"reading": Reading.from_dict(data["reading"])})


def open_recorded_text(record: TextRecord, tokenizer: Tokenizer) -> tuple[TokenizedSplit, list[str]]:
    """The two splits of the text, and what the user should know of it; of shards at a URL no training split.

    Raises:
        UserError: the text is gone, or does not suit the tokenizer.
    """
    try:
        split, fingerprint, notes = _open(record, tokenizer)
    except UserError as error:
        if not record.fingerprint:
            raise
        sentence = f"The text of this run cannot be used ({str(error).rstrip('.')}); name one with --data."
        raise UserError(sentence) from None
    changed = f"{record.name} has changed since the run; these figures are for the text as it is now."
    return split, [*notes, *([changed] if record.fingerprint not in ("", fingerprint) else [])]


def _open(record: TextRecord, tokenizer: Tokenizer) -> tuple[TokenizedSplit, str, list[str]]:
    """The splits, the fingerprint of what is there now, and notes."""
    if record.source != "streaming":
        corpus = open_corpus(record.source, record.path, None, record.reading)
        how = record.val_fraction, record.split_by, record.test_fraction
        return tokenize(corpus, tokenizer, None, *how), corpus.fingerprint, corpus.notes
    shards = open_shards(str(record.path), usable_folder(default_cache_dir() / "streaming"))
    if shards.tokenizer.fingerprint != tokenizer.fingerprint:
        raise UserError(f"{record.path} was made with another tokenizer than the checkpoint's.")
    val = read_validation(shards.val, tokenizer.vocab_size)
    train = open_training(shards.train, val.dtype)
    return TokenizedSplit(train, val, tokenizer.token_byte_lengths), shards.fingerprint, []
