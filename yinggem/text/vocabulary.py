"""What every tokenizer is: a reversible map between text and ids, with marks for documents where they are wanted."""

import hashlib
import json
import operator
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import Any, ClassVar

import numpy as np

from yinggem.common.errors import UserError
from yinggem.text.marks import EITHER, END, TURN, is_template

Texts = Callable[[], Iterable[str]]  # each call starts again from the beginning of the text


class Tokenizer(ABC):
    """A reversible map between text and ids 0 .. vocab_size-1. Id i stands for the bytes `tokens[i]`."""

    name: ClassVar[str]

    def __init__(self) -> None:
        self._tokens: list[bytes] = []
        self.has_ends = False  # whether an id stands for the end of a document
        self.template: str | None = None  # of pairs: what stands before a completion, with {prompt} in it

    @property
    def tokens(self) -> list[bytes]:
        """UTF-8 bytes of every id; UserError before `fit`."""
        if not self._tokens:
            raise UserError(f"The {self.name} tokenizer has not been fitted to a text; call fit, or load a saved one.")
        return self._tokens

    @property
    def is_fitted(self) -> bool:
        """Whether it can encode; gpt2 and byte always can."""
        return bool(self._tokens)

    @property
    def vocab_size(self) -> int:
        """Number of ids."""
        return len(self.tokens)

    @property
    def dtype(self) -> type[np.uint16] | type[np.uint32]:
        """The smallest type of array that holds every id."""
        return np.uint16 if self.vocab_size <= 1 << 16 else np.uint32

    @property
    def token_byte_lengths(self) -> np.ndarray:
        """(V,) uint16: UTF-8 bytes each id stands for, to turn nats per token into bits per byte."""
        return np.array([len(token) for token in self.tokens], dtype=np.uint16)

    @property
    def fingerprint(self) -> str:
        """Hex digest, equal for two tokenizers exactly when their saved states are."""
        return hashlib.sha256(json.dumps(self.state_dict(), sort_keys=True).encode("ascii")).hexdigest()

    @property
    def settings(self) -> dict[str, Any]:
        """What, together with a text, decides the result of `fit`."""
        return {"name": self.name} | self._marking()

    def is_fitted_as(self, settings: dict[str, Any]) -> bool:
        """Whether this tokenizer, fitted, is what one of these settings becomes."""
        return settings == self.settings

    @property
    def end_id(self) -> int | None:
        """The id of the end of a document; it stands for no bytes. None where documents are not told apart."""
        return len(self.tokens) - len(self._marks()) if self.has_ends else None

    @property
    def turn_id(self) -> int | None:
        """The id between a prompt and its completion, for no bytes either; None where there are no pairs."""
        return None if self.template is None else len(self.tokens) - 1

    def mark_documents(self, template: str | None = None) -> None:
        """Have an id for the end of documents and, with the template of pairs, one for the turn to a completion.

        Both come after all others; GPT-2 has an id for the end already. Doing it twice changes nothing.
        """
        ordinary = self._tokens[: len(self._tokens) - len(self._marks())]
        self.has_ends, self.template = True, template
        self._set_tokens(ordinary)

    def _marks(self) -> list[bytes]:
        """What follows the ordinary tokens."""
        return [] if not self.has_ends else [b""] if self.template is None else [b"", b""]

    def _set_tokens(self, ordinary: list[bytes]) -> None:
        self._tokens = [*ordinary, *self._marks()] if ordinary else []

    def _marking(self) -> dict[str, Any]:
        """The marks as plain data; nothing where there are none."""
        return ({"documents": True} if self.has_ends else {}) | ({"template": self.template} if self.template else {})

    def _load_marking(self, state: dict[str, Any]) -> None:
        documents, template = state.get("documents", False), state.get("template")
        if type(documents) is not bool or not (template is None or (documents and is_template(template))):
            raise ValueError("impossible marks")
        self.has_ends, self.template = documents, template

    def fit(self, texts: Texts) -> None:  # noqa: B027 - gpt2 and byte have nothing to do
        """Learn the vocabulary from the training text, given as a function that starts it anew."""

    def encode(self, text: str) -> list[int]:
        """Ids of `text`; UserError for a lone surrogate, or characters the char tokenizer never saw."""
        return self.encode_array(text).tolist()

    @abstractmethod
    def encode_array(self, text: str) -> np.ndarray:
        """The ids of `encode` as a 1-D array of `dtype`."""

    def encode_marked(self, text: str) -> np.ndarray:
        """As `encode_array`, of a text with the marks of `yinggem.text.marks` where documents end and turns are."""
        if not self.has_ends:
            return self.encode_array(text)
        ids = {END: self.end_id, TURN: self.turn_id}
        parts = [part for part in re.split(f"({EITHER})", text) if part]
        found = [np.array([ids[part]], self.dtype) if part in ids else self.encode_array(part) for part in parts]
        return np.concatenate([np.empty(0, self.dtype), *found])

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The exact bytes of `ids`; UserError for an id outside the vocabulary."""
        tokens, indices = self.tokens, [operator.index(i) for i in ids]
        outside = next((i for i in indices if not 0 <= i < len(tokens)), None)
        if outside is not None:
            raise UserError(f"Token id {outside} is outside the vocabulary of {len(tokens)} ids.")
        return b"".join([tokens[i] for i in indices])

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids`; bytes that are not UTF-8 become U+FFFD."""
        return self.decode_bytes(ids).decode("utf-8", errors="replace")

    def state_dict(self) -> dict[str, Any]:
        """Plain data for a checkpoint; `from_state_dict` undoes it."""
        return {"name": self.name} | self._marking()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Become the tokenizer that was saved; ValueError when `state` is damaged."""
        ordinary = self._tokens[: len(self._tokens) - len(self._marks())]
        self._load_marking(state)
        self._set_tokens(ordinary)
