"""Text to ids and back: GPT-2's BPE, a BPE trained on the corpus, characters, bytes. Saved as plain data.

Ids are what `encode` gives for ordinary text: a special token written out in the text is ordinary text too.
"""

import codecs
from typing import Any

import numpy as np
import tiktoken

from yinggem.common.checks import check_whole_number
from yinggem.common.errors import UserError
from yinggem.text import bpe
from yinggem.text.vocabulary import Texts, Tokenizer

MAX_CHARACTERS = 0x110000
NOT_UTF8 = range(0xDC80, 0xDD00)  # how Python keeps the bytes of a command line that are not UTF-8


class _TiktokenTokenizer(Tokenizer):
    """Byte-level BPE served by tiktoken; the encoding is built at the first use."""

    _encoding: tiktoken.Encoding | None = None

    @property
    def encoding(self) -> tiktoken.Encoding:
        if self._encoding is None:
            self._encoding = bpe.build_encoding(self._ordinary_tokens())
        return self._encoding

    def _ordinary_tokens(self) -> list[bytes]:
        return self.tokens[: len(self.tokens) - len(self._marks())]

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
        self._set_tokens(bpe.gpt2_tokens())

    def _marks(self) -> list[bytes]:
        return super()._marks() or [bpe.END_OF_TEXT.encode()]


class BPETokenizer(_TiktokenTokenizer):
    """Byte-level BPE of `vocab_size` tokens, learnt from the training text; any text can be encoded.

    Args:
        vocab_size: how many tokens.
        at_most: have fewer where the text has no more, as one of few words; else that is a UserError.
    """

    name = "bpe"

    def __init__(self, vocab_size: int = 1024, at_most: bool = False) -> None:
        super().__init__()
        check_whole_number("tokenizer.vocab_size", vocab_size, bpe.MIN_VOCABULARY, bpe.MAX_VOCABULARY)
        if not isinstance(at_most, bool):
            raise UserError(f"tokenizer.at_most must be true or false, not {at_most!r}.")
        self._vocab_size, self._at_most = vocab_size, at_most

    @property
    def vocab_size(self) -> int:
        return self._vocab_size + len(self._marks())

    @property
    def settings(self) -> dict[str, Any]:
        return super().settings | {"vocab_size": self._vocab_size} | ({"at_most": True} if self._at_most else {})

    def is_fitted_as(self, settings: dict[str, Any]) -> bool:
        wanted = {name: value for name, value in settings.items() if name != "at_most"}
        if "at_most" in settings and self._vocab_size < settings["vocab_size"]:
            wanted["vocab_size"] = self._vocab_size
        return super().is_fitted_as(wanted)

    def fit(self, texts: Texts) -> None:
        self._learn(bpe.train(texts, self._vocab_size, self._at_most))

    def _learn(self, tokens: list[bytes]) -> None:
        self._vocab_size, self._at_most, self._encoding = len(tokens), False, None
        self._set_tokens(tokens)

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"tokens": bpe.tokens_to_text(self._ordinary_tokens())}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._load_marking(state)
        self._learn(bpe.tokens_from_text(_string(state, "tokens")))


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
        self._set_tokens([character.encode() for character in characters])
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
        return super().state_dict() | {"characters": b"".join(self.tokens).decode()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._load_marking(state)
        self._set_characters(_string(state, "characters"))


class ByteTokenizer(Tokenizer):
    """The 256 bytes of UTF-8."""

    name = "byte"

    def __init__(self) -> None:
        super().__init__()
        self._set_tokens([bytes([byte]) for byte in range(256)])

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
        code = ord(text[error.start])
        what = f"a lone surrogate (U+{code:04X}), which is half a character"
        if code in NOT_UTF8:
            what = f"a byte that is not UTF-8 (0x{code - 0xDC00:02X})"
        raise UserError(f"Character {error.start} of the text is {what}; remove it.") from None
