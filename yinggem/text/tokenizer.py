"""Text to ids and back: GPT-2's BPE, a BPE trained on the corpus, characters, bytes. Saved as plain data.

Ids are what `encode` gives for ordinary text: a special token written out in the text is ordinary text too.
"""

import codecs
import hashlib
import json
import operator
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import Any, ClassVar

import numpy as np
import tiktoken

from yinggem.common.checks import check_whole_number
from yinggem.common.errors import UserError
from yinggem.text import bpe

MAX_CHARACTERS = 0x110000
Texts = Callable[[], Iterable[str]]  # each call starts again from the beginning of the text


class Tokenizer(ABC):
    """A reversible map between text and ids 0 .. vocab_size-1. Id i stands for the bytes `tokens[i]`."""

    name: ClassVar[str]

    def __init__(self) -> None:
        self._tokens: list[bytes] = []

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
        return {"name": self.name}

    def fit(self, texts: Texts) -> None:  # noqa: B027 - gpt2 and byte have nothing to do
        """Learn the vocabulary from the training text, given as a function that starts it anew."""

    def encode(self, text: str) -> list[int]:
        """Ids of `text`; UserError for a lone surrogate, or characters the char tokenizer never saw."""
        return self.encode_array(text).tolist()

    @abstractmethod
    def encode_array(self, text: str) -> np.ndarray:
        """The ids of `encode` as a 1-D array of `dtype`."""

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
        return {"name": self.name}

    def load_state_dict(self, state: dict[str, Any]) -> None:  # noqa: B027 - gpt2 and byte have nothing to do
        """Become the tokenizer that was saved; ValueError when `state` is damaged."""


class _TiktokenTokenizer(Tokenizer):
    """Byte-level BPE served by tiktoken; the encoding is built at the first use."""

    _encoding: tiktoken.Encoding | None = None

    @property
    def encoding(self) -> tiktoken.Encoding:
        if self._encoding is None:
            self._encoding = bpe.build_encoding(self._ordinary_tokens())
        return self._encoding

    def _ordinary_tokens(self) -> list[bytes]:
        return self.tokens

    def encode(self, text: str) -> list[int]:
        _check_encodable(text)
        return [i for piece in bpe.pieces(text) for i in self.encoding.encode_ordinary(piece)]

    def encode_array(self, text: str) -> np.ndarray:
        _check_encodable(text)
        # () disallows nothing, and nothing is allowed either: special tokens in the text are ordinary text.
        parts = [self.encoding.encode_to_numpy(piece, disallowed_special=()) for piece in bpe.pieces(text)]
        return np.concatenate([np.empty(0, self.dtype), *parts], dtype=self.dtype, casting="same_kind")

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_encoding": None}  # tiktoken's object cannot be pickled


class GPT2Tokenizer(_TiktokenTokenizer):
    """GPT-2's 50,257 tokens, from the file that ships with the package; the last, `<|endoftext|>`, is never emitted."""

    name = "gpt2"

    def __init__(self) -> None:
        super().__init__()
        self._tokens = [*bpe.gpt2_tokens(), bpe.END_OF_TEXT.encode()]

    def _ordinary_tokens(self) -> list[bytes]:
        return self.tokens[:-1]


class BPETokenizer(_TiktokenTokenizer):
    """Byte-level BPE of exactly `vocab_size` tokens, learnt from the training text; any text can be encoded."""

    name = "bpe"

    def __init__(self, vocab_size: int = 1024) -> None:
        super().__init__()
        check_whole_number("tokenizer.vocab_size", vocab_size, bpe.MIN_VOCABULARY, bpe.MAX_VOCABULARY)
        self._vocab_size = vocab_size

    @property
    def vocab_size(self) -> int:
        return self._vocab_size

    @property
    def settings(self) -> dict[str, Any]:
        return {"name": self.name, "vocab_size": self._vocab_size}

    def fit(self, texts: Texts) -> None:
        self._tokens, self._encoding = bpe.train(texts, self._vocab_size), None

    def state_dict(self) -> dict[str, Any]:
        return {"name": self.name, "tokens": bpe.tokens_to_text(self.tokens)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._tokens, self._encoding = bpe.tokens_from_text(_string(state, "tokens")), None
        self._vocab_size = len(self._tokens)


class CharTokenizer(Tokenizer):
    """One id per character of the training text, in code point order, as nanoGPT's character data sets."""

    name = "char"

    def __init__(self) -> None:
        super().__init__()
        self._ids = np.zeros(0, np.int32)  # code point -> id, -1 where unseen

    def fit(self, texts: Texts) -> None:
        self._set_characters("".join(sorted(set().union(*(set(text) for text in texts())))))

    def _set_characters(self, characters: str) -> None:
        if not characters:
            raise UserError("The training text is empty; the char tokenizer has nothing to learn from.")
        if len(characters) > MAX_CHARACTERS:
            raise ValueError("more characters than Unicode has")
        codes = _code_points(characters)
        if (np.diff(codes.astype(np.int64)) <= 0).any():
            raise ValueError("characters repeat or are out of order")
        self._tokens = [character.encode() for character in characters]
        self._ids = np.full(int(codes[-1]) + 2, -1, np.int32)
        self._ids[codes] = np.arange(len(codes))

    def encode_array(self, text: str) -> np.ndarray:
        dtype, codes = self.dtype, _code_points(text)
        ids = self._ids[np.minimum(codes, len(self._ids) - 1)]
        if (ids < 0).any():
            unseen = [chr(code) for code in np.unique(codes[ids < 0])]
            named = ", ".join(f"{c!r} (U+{ord(c):04X})" for c in unseen[:8]) + (" ..." if len(unseen) > 8 else "")
            raise UserError(
                f"The char tokenizer never saw {named} in its training text; leave such characters out, "
                "or train with tokenizer=bpe or tokenizer=byte, which take any text."
            )
        return ids.astype(dtype)

    def state_dict(self) -> dict[str, Any]:
        return {"name": self.name, "characters": b"".join(self.tokens).decode()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._set_characters(_string(state, "characters"))


class ByteTokenizer(Tokenizer):
    """The 256 bytes of UTF-8."""

    name = "byte"

    def __init__(self) -> None:
        super().__init__()
        self._tokens = [bytes([byte]) for byte in range(256)]

    def encode_array(self, text: str) -> np.ndarray:
        return np.frombuffer(_encoded(text, "utf-8"), np.uint8).astype(np.uint16)


class StreamDecoder:
    """Turns ids into text one by one, holding back the bytes of a character until it is complete.

    Args:
        begun: bytes that stand before them and begin a character, which the first id completes.
    """

    def __init__(self, tokenizer: Tokenizer, begun: bytes = b"") -> None:
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._decoder.decode(begun)

    def push(self, token: int) -> str:
        """The text that this id completes, maybe empty."""
        return self._decoder.decode(self._tokenizer.decode_bytes([token]))

    def finish(self) -> str:
        """What is left at the end: U+FFFD for an incomplete character, else nothing."""
        return self._decoder.decode(b"", final=True)


KINDS: dict[str, type[Tokenizer]] = {
    kind.name: kind for kind in (GPT2Tokenizer, BPETokenizer, CharTokenizer, ByteTokenizer)
}


def from_state_dict(state: Any) -> Tokenizer:
    """The tokenizer that `state_dict` saved; UserError for anything else. Runs no code; memory grows with `state`."""
    try:
        tokenizer = KINDS[_string(state, "name")]()
        tokenizer.load_state_dict(state)
        if tokenizer.state_dict().keys() != state.keys():
            raise ValueError("unknown entries")
    except (TypeError, ValueError, LookupError) as error:
        raise UserError("The saved tokenizer is damaged or not one of YingGem's; use another checkpoint.") from error
    return tokenizer


def _string(state: Any, key: str) -> str:
    if not isinstance(state, dict) or type(state.get(key)) is not str:
        raise ValueError(f"{key} is missing")
    return state[key]


def _check_encodable(text: str) -> None:
    if not text.isascii():  # tiktoken would silently replace what UTF-8 cannot hold
        _encoded(text, "utf-8")


def _code_points(text: str) -> np.ndarray:
    return np.frombuffer(_encoded(text, "utf-32-le"), "<u4")


def _encoded(text: str, encoding: str) -> bytes:
    try:
        return text.encode(encoding)
    except UnicodeEncodeError as error:
        raise UserError(
            f"Character {error.start} of the text is a lone surrogate (U+{ord(text[error.start]):04X}), "
            "which is half a character; remove it."
        ) from None
