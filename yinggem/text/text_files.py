"""Finding text files and reading them as one normalised text, in bounded memory."""

import codecs
import glob
import hashlib
import http.client
import io
import os
import urllib.request
from collections.abc import Iterable, Iterator
from pathlib import Path

from yinggem.common.errors import UserError
from yinggem.common.files import cached_file
from yinggem.common.verified_files import Stamp, stamp

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
    if "\0" in str(path):
        raise UserError(f"data.path={str(path)!r} holds a NUL character; name a text file, a folder or a glob.")
    place = Path(path).expanduser()
    try:
        if place.is_dir():
            files = _files_below(place)
        elif glob.has_magic(str(place)) and not place.exists():
            files = [Path(name) for name in glob.glob(str(place), recursive=True) if Path(name).is_file()]
        elif place.exists() and not place.is_file():
            raise UserError(f"data.path={path} is not a regular file; name a text file, a folder or a glob.")
        else:
            files = [place]
    except OSError as error:
        raise _unreadable(place, error) from None
    if not files:
        raise UserError(f"data.path={path} holds or matches no .txt file; check the folder or the pattern.")
    return tuple(sorted(files))


def _files_below(folder: Path) -> list[Path]:
    """Every .txt file; a folder that cannot be listed, or a dangling link, is an error rather than a smaller corpus."""
    files = []
    for parent, _, names in os.walk(folder, onerror=_raise):
        paths = [Path(parent, name) for name in names if name.lower().endswith(".txt")]
        files += [path for path in paths if path.is_file() or not path.exists()]
    return files


def _raise(error: OSError) -> None:
    raise error


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
    offset, at_start = 0, True  # offset of the block in the source
    for block in _iter_blocks(source):
        held = len(utf8.getstate()[0])
        try:
            text = decoder.decode(block, final=not block)
        except UnicodeDecodeError as error:
            raise UserError(
                f"{_name(source)} is not UTF-8 at byte offset {offset - held + error.start}; "
                "convert the file, for example with iconv."
            ) from None
        offset += len(block)
        if text and at_start:
            text, at_start = text.removeprefix("\ufeff"), False
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


def stamps(sources: Iterable[Source]) -> list[Stamp]:
    """What tells every file from itself before a change, also between two readings."""
    try:
        return [stamp(source) for source in sources if isinstance(source, Path)]
    except OSError as error:
        raise _unreadable(Path(str(error.filename)), error) from None


def tinyshakespeare(path: str | Path | None, cache_dir: Path) -> Path:
    """The file at `path`, else the copy in `cache_dir`, else a download into it; its SHA-256 is always verified."""
    if path is not None:
        (file,) = find_text_files(path)[:1]
        if _sha256(file) != TINYSHAKESPEARE_SHA256:
            raise UserError(f"{file} is not tiny Shakespeare (its SHA-256 differs); use data=text for other texts.")
        return file

    def verified(cached: Path) -> Path | None:
        return cached if cached.is_file() and _sha256(cached) == TINYSHAKESPEARE_SHA256 else None

    return cached_file(cache_dir / "tinyshakespeare.txt", lambda file: file.write(_download()), verified)


def _download() -> bytes:
    remedy = "fetch it elsewhere and set data.path=FILE, or use data=shakespeare, which ships with the package"
    try:
        with urllib.request.urlopen(TINYSHAKESPEARE_URL, timeout=30) as response:
            content: bytes = response.read(TINYSHAKESPEARE_BYTES + 1)
    except (OSError, http.client.HTTPException) as error:
        raise UserError(f"Cannot download tiny Shakespeare from {TINYSHAKESPEARE_URL} ({error}); {remedy}.") from None
    if hashlib.sha256(content).hexdigest() != TINYSHAKESPEARE_SHA256:
        raise UserError(f"{TINYSHAKESPEARE_URL} holds something else than tiny Shakespeare; {remedy}.")
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
