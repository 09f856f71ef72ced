"""Bytes to characters in any encoding, and which encoding bytes look like that are not in the one expected."""

import codecs
import contextlib
import importlib
import io
import unicodedata
from collections.abc import Iterable, Iterator

from yinggem.common.errors import UserError

MARKS = {codecs.BOM_UTF32_LE: "utf-32", codecs.BOM_UTF32_BE: "utf-32", codecs.BOM_UTF16_LE: "utf-16",
         codecs.BOM_UTF16_BE: "utf-16", codecs.BOM_UTF8: "utf-8"}  # fmt: skip
TYPOGRAPHY = set("‚„…‘’“”•–—€«»°§©®·¡¿´")  # of cp1252, beside letters
SAMPLE_BYTES = 1 << 16


def checked_encoding(name: object) -> str:
    """The name of a text encoding as Python spells it; UserError for anything else."""
    with contextlib.suppress(LookupError, TypeError, ValueError):
        found = codecs.lookup(str(name))
        if found._is_text_encoding and isinstance(name, str):
            return found.name
    raise UserError(f"data.encoding={str(name)[:80]!r} is unknown; write utf-8, cp1252, utf-16 or another of Python's.")


def decoded_text(blocks: Iterable[bytes], name: str, encoding: str = "utf-8") -> Iterator[str]:
    """The text of a file without a byte order mark and with every line end `\\n`, in pieces.

    Raises:
        UserError: it is not in that encoding; the sentence names the file, the byte offset and what it looks like.
    """
    # The outer decoder turns \r\n and \r into \n across block borders, the inner one holds back split characters.
    inner = codecs.getincrementaldecoder(encoding)()
    decoder = io.IncrementalNewlineDecoder(inner, translate=True)
    offset, at_start, plain = 0, True, _PlainUTF8() if encoding not in ("utf-8", "utf-8-sig") else None
    for block, is_last in _with_end(blocks):
        held = len(inner.getstate()[0]) if isinstance(inner.getstate()[0], bytes) else 0
        try:
            text = decoder.decode(block, final=is_last)
            if plain:
                text.encode()  # some encodings can spell half a character
                plain.add(block, is_last)
        except UnicodeError as error:
            start = offset - held + error.start if isinstance(error, UnicodeDecodeError) else offset
            raise UserError(
                f"{name} is not {encoding.upper()} at byte offset {start}; {_advice(block, encoding)}."
            ) from None
        offset += len(block)
        if text and at_start:
            text, at_start = text.removeprefix("\ufeff"), False
        if text:
            yield text
    if plain and plain.is_certain:
        raise UserError(
            f"{name} is UTF-8, not {encoding}, and data.encoding is for all files: convert those that differ."
        )


class _PlainUTF8:
    """Whether bytes that pass for another encoding are UTF-8 beyond doubt: valid, and not ASCII alone."""

    def __init__(self) -> None:
        self._decoder, self.is_valid, self.beyond_ascii = codecs.getincrementaldecoder("utf-8")(), True, False

    def add(self, block: bytes, is_last: bool) -> None:
        """Look at the next block."""
        try:
            if self.is_valid:
                text = self._decoder.decode(block, is_last)
                self.beyond_ascii |= not text.isascii()
                self.is_valid = "\0" not in text  # UTF-16 of plain letters
        except UnicodeDecodeError:
            self.is_valid = False

    @property
    def is_certain(self) -> bool:
        """Once all was seen."""
        return self.is_valid and self.beyond_ascii


def _advice(sample: bytes, expected: str) -> str:
    guess = looks_like(sample[:SAMPLE_BYTES])
    if not guess or guess == expected:
        return "if it is text, convert it, for example with iconv, or name its encoding with data.encoding"
    return f"it looks like {guess}: set data.encoding={guess} if all files are, or convert it, for example with iconv"


def looks_like(sample: bytes) -> str:
    """The encoding that bytes seem to be in; empty where there is no good guess."""
    for mark, name in MARKS.items():
        if sample.startswith(mark):
            return name
    for name, zeros in (("utf-16-le", sample[1::2]), ("utf-16-be", sample[::2])):
        if len(zeros) > 1 and zeros.count(0) > 0.4 * len(zeros):
            return name
    if b"\0" in sample:
        return ""
    with contextlib.suppress(UnicodeDecodeError):
        beyond = [character for character in sample.decode("cp1252") if not character.isascii()]
        letters = sum(unicodedata.category(c)[0] == "L" or c in TYPOGRAPHY for c in beyond)
        if beyond and letters == len(beyond) < 0.25 * len(sample):
            return "cp1252"
    with contextlib.suppress(ImportError):  # it comes with requests, which tiktoken brings
        best = importlib.import_module("charset_normalizer").from_bytes(sample).best()
        return "" if best is None or best.encoding in ("ascii", "utf_8") else str(best.encoding)
    return ""


def _with_end(blocks: Iterable[bytes]) -> Iterator[tuple[bytes, bool]]:
    for block in blocks:
        yield block, False
    yield b"", True
