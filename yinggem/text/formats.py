"""File formats: how the bytes of a file become text, by its suffix. Another format is another entry of READERS."""

import codecs
import io
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from yinggem.common.errors import UserError

BLOCK_BYTES = 1 << 20

Source = Path | bytes  # a file, or the content of one
Reader = Callable[[Iterable[bytes], str], Iterator[str]]  # blocks of a file and its name -> pieces of its text


def read_plain_text(blocks: Iterable[bytes], name: str) -> Iterator[str]:
    """UTF-8, without a byte order mark and with every line end `\\n`.

    Raises:
        UserError: it is not UTF-8; the sentence names the file and the byte offset.
    """
    # The outer decoder turns \r\n and \r into \n across block borders, the inner one holds back split characters.
    utf8 = codecs.getincrementaldecoder("utf-8")()
    decoder = io.IncrementalNewlineDecoder(utf8, translate=True)
    offset, at_start = 0, True  # offset of the block in the file
    for block, is_last in _with_end(blocks):
        held = len(utf8.getstate()[0])
        try:
            text = decoder.decode(block, final=is_last)
        except UnicodeDecodeError as error:
            raise UserError(
                f"{name} is not UTF-8 at byte offset {offset - held + error.start}; "
                "convert the file, for example with iconv."
            ) from None
        offset += len(block)
        if text and at_start:
            text, at_start = text.removeprefix("\ufeff"), False
        if text:
            yield text


READERS: dict[str, Reader] = {".txt": read_plain_text}  # the suffixes that a folder is searched for


def iter_text(sources: Iterable[Source]) -> Iterator[str]:
    """The text of all sources, in pieces of any length.

    A source that does not end with a line end gets one if another follows. A file whose suffix is not
    in READERS was named by the user, and is read as plain text.

    Raises:
        UserError: a file cannot be read, or is not what its suffix says.
    """
    last = ""
    for source in sources:
        suffix = source.suffix.lower() if isinstance(source, Path) else ".txt"
        for number, text in enumerate(READERS.get(suffix, read_plain_text)(_blocks(source), _name(source))):
            if number == 0 and last not in ("", "\n"):
                yield "\n"
            yield text
            last = text[-1]


def cannot_read(path: Path, error: OSError) -> UserError:
    """What to say when the system refuses."""
    return UserError(f"Cannot read {path} ({error.strerror or error}); check the path and its permissions.")


def _blocks(source: Source) -> Iterator[bytes]:
    if isinstance(source, bytes):
        yield source
        return
    try:
        with open(source, "rb") as file:
            while block := file.read(BLOCK_BYTES):
                yield block
    except OSError as error:
        raise cannot_read(source, error) from None


def _with_end(blocks: Iterable[bytes]) -> Iterator[tuple[bytes, bool]]:
    for block in blocks:
        yield block, False
    yield b"", True


def _name(source: Source) -> str:
    return str(source) if isinstance(source, Path) else "The shipped text"
