"""Finding text files and reading them as one normalised text, in bounded memory."""

import codecs
import glob
import hashlib
import io
import os
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator
from pathlib import Path

from yinggem.errors import UserError
from yinggem.files import write_atomically

Source = Path | bytes  # a file, or the content of one

BLOCK_BYTES = 1 << 20

TINYSHAKESPEARE_URL = "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
TINYSHAKESPEARE_SHA256 = "3037b8d446d3abf01b1e322fdc0d701e49a8408140fd77212ea69cbe106e536a"
TINYSHAKESPEARE_BYTES = 1_115_394


def find_text_files(path: str | Path) -> tuple[Path, ...]:
    """The file, every .txt file under the folder, or every file the glob matches (`**` too); sorted by path.

    Raises:
        UserError: nothing is there, or something other than regular files is.
    """
    place = Path(path).expanduser()
    try:
        if place.is_dir():
            files = sorted(file for file in place.rglob("*") if file.suffix.lower() == ".txt" and file.is_file())
            if not files:
                raise UserError(f"data.path={path} is a folder without .txt files; name another folder, file or glob.")
        elif not place.exists() and glob.has_magic(str(place)):
            files = sorted(Path(name) for name in glob.glob(str(place), recursive=True) if Path(name).is_file())
            if not files:
                raise UserError(f"data.path={path} matches no file; check the pattern.")
        elif place.is_file():
            files = [place]
        else:
            reason = "is not a regular file" if place.exists() else "does not exist"
            raise UserError(f"data.path={path} {reason}; name a text file, a folder of .txt files or a glob.")
    except OSError as error:
        raise _unreadable(place, error) from None
    except ValueError as error:  # a NUL character in the path
        raise error if isinstance(error, UserError) else UserError(f"data.path={str(path)!r} is no path.") from None
    return tuple(files)


def iter_normalised(sources: Iterable[Source]) -> Iterator[str]:
    """The text of all sources, in pieces of any length: BOM dropped, every line end `\\n`.

    A source that does not end with a line end gets one if another follows.

    Raises:
        UserError: a file cannot be read or is not UTF-8; the sentence names it and the byte offset.
    """
    last = ""
    for source in sources:
        for number, text in enumerate(_iter_source(source)):
            if number == 0 and last not in ("", "\n"):
                yield "\n"
            yield text
            last = text[-1]


def _iter_source(source: Source) -> Iterator[str]:
    """Non-empty pieces of one source's normalised text."""
    # The outer decoder turns \r\n and \r into \n across block borders, the inner one holds back split characters.
    utf8 = codecs.getincrementaldecoder("utf-8")()
    decoder = io.IncrementalNewlineDecoder(utf8, translate=True)
    offset = 0  # of the first byte the decoder has not consumed yet
    for block in _iter_blocks(source):
        held = len(utf8.getstate()[0])
        try:
            text = decoder.decode(block, final=not block)
        except UnicodeDecodeError as error:
            raise UserError(
                f"{_name(source)} is not UTF-8 at byte offset {offset - held + error.start}; "
                "convert the file, for example with iconv."
            ) from None
        if offset == 0 and text.startswith("\ufeff"):
            text = text[1:]
        offset += len(block)
        if text:
            yield text


def _iter_blocks(source: Source) -> Iterator[bytes]:
    """Blocks of bytes, then an empty one."""
    try:
        with open(source, "rb") if isinstance(source, Path) else io.BytesIO(source) as file:
            while block := file.read(BLOCK_BYTES):
                yield block
            yield b""
    except OSError as error:
        raise _unreadable(source, error) from None


def signature(sources: Iterable[Source]) -> list[tuple[int, int]]:
    """(size, time of last change) of every file, to notice one that changes between two readings."""
    try:
        stats = [os.stat(source) for source in sources if isinstance(source, Path)]
    except OSError as error:
        raise _unreadable(Path(str(error.filename)), error) from None
    return [(stat.st_size, stat.st_mtime_ns) for stat in stats]


def tinyshakespeare(path: str | Path | None, cache_dir: Path) -> Path:
    """The file at `path`, else the copy in `cache_dir`, else a download into it; its SHA-256 is always verified."""
    if path is not None:
        (file,) = find_text_files(path)[:1]
        if _sha256(file) != TINYSHAKESPEARE_SHA256:
            raise UserError(f"{file} is not tiny Shakespeare (its SHA-256 differs); use data=text for other texts.")
        return file
    cached = cache_dir / "tinyshakespeare.txt"
    if not cached.is_file() or _sha256(cached) != TINYSHAKESPEARE_SHA256:
        write_atomically(cached, _download(TINYSHAKESPEARE_URL))
    return cached


def _download(url: str) -> bytes:
    try:
        with urllib.request.urlopen(url, timeout=30) as response:
            content: bytes = response.read(TINYSHAKESPEARE_BYTES + 1)
    except (OSError, urllib.error.URLError) as error:
        raise UserError(
            f"Cannot download tiny Shakespeare from {url} ({error}); fetch it elsewhere and set data.path=FILE, "
            "or use data=shakespeare, which ships with the package."
        ) from None
    if hashlib.sha256(content).hexdigest() != TINYSHAKESPEARE_SHA256:
        raise UserError(f"{url} gave something else than tiny Shakespeare; fetch it elsewhere and set data.path=FILE.")
    return content


def _sha256(path: Path) -> str:
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise _unreadable(path, error) from None


def _name(source: Source) -> str:
    return str(source) if isinstance(source, Path) else "The shipped text"


def _unreadable(source: Source, error: OSError) -> UserError:
    return UserError(f"Cannot read {_name(source)} ({error.strerror or error}); check the path and its permissions.")
