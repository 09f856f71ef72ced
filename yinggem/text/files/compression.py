"""The bytes of a file that may be compressed, as its suffix says; in blocks, so that any size needs little memory."""

import bz2
import contextlib
import gzip
import importlib
import lzma
import tempfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from yinggem.common.errors import UserError

BLOCK_BYTES = 1 << 20
ZSTD_BLOCK_BYTES = 1 << 12  # of compressed bytes: what comes out of them at once is bounded too

Source = Path | bytes  # a file, or the content of one


def read_zstd(file: IO[bytes]) -> Iterator[bytes]:
    """What the frames of a .zst file hold; EOFError when the last one is cut off."""
    make, block = _zstd_decompressor(), file.read(ZSTD_BLOCK_BYTES)
    while block:
        frame = make()
        while not frame.eof:
            if not block:
                raise EOFError("the file ends within a frame")
            yield frame.decompress(block)
            block = file.read(ZSTD_BLOCK_BYTES) if not frame.eof else frame.unused_data
        block = block or file.read(ZSTD_BLOCK_BYTES)


def _zstd_decompressor() -> Callable[[], Any]:
    with contextlib.suppress(ImportError):
        return importlib.import_module("compression.zstd").ZstdDecompressor  # from Python 3.14 on
    with contextlib.suppress(ImportError):
        return importlib.import_module("zstandard").ZstdDecompressor().decompressobj
    raise UserError("Reading .zst files needs a package: pip install zstandard, or unpack them first.")


def _read_blocks(file: Any) -> Iterator[bytes]:
    while block := file.read(BLOCK_BYTES):
        yield block


COMPRESSIONS: dict[str, Callable[[IO[bytes]], Iterator[bytes]]] = {
    ".gz": lambda file: _read_blocks(gzip.GzipFile(fileobj=file)),
    ".xz": lambda file: _read_blocks(lzma.LZMAFile(file)),  # noqa: SIM115 - whoever opened `file` closes it
    ".bz2": lambda file: _read_blocks(bz2.BZ2File(file)),
    ".zst": read_zstd,
}


def inner_suffix(path: Path) -> str:
    """The suffix that names the format: ".csv" of poems.csv and of poems.csv.gz, in lower case."""
    inner = path.with_suffix("") if path.suffix.lower() in COMPRESSIONS else path
    return inner.suffix.lower()


@dataclass(frozen=True)
class OpenedSource:
    """A source that is about to be read, from its beginning.

    Args:
        advance: told how many bytes of the file were read, as it is read.
    """

    source: Source
    advance: Callable[[int], None] = lambda _: None

    @property
    def name(self) -> str:
        """What a user calls it."""
        return str(self.source) if isinstance(self.source, Path) else "The shipped text"

    def blocks(self) -> Iterator[bytes]:
        """Its bytes, unpacked.

        Raises:
            UserError: the system refuses; it is damaged, or not what its suffix says.
        """
        if isinstance(self.source, bytes):
            yield self.source
            return
        read = COMPRESSIONS.get(self.source.suffix.lower(), _read_blocks)
        try:
            with open(self.source, "rb") as file:
                position = 0
                for block in read(file):
                    yield block
                    self.advance(file.tell() - position)
                    position = file.tell()
        except Exception as error:
            refusal = self._refusal(error)
            if refusal is None:
                raise
            raise refusal from None

    def _refusal(self, error: Exception) -> UserError | None:
        """What to say when the system or a decompressor refuses; None for any other error."""
        assert isinstance(self.source, Path)
        if isinstance(error, OSError) and error.errno is not None:
            return cannot_read(self.source, error)
        is_damage = isinstance(error, EOFError | OSError | zlib.error | lzma.LZMAError)
        if is_damage or type(error).__name__ == "ZstdError":
            suffix = self.source.suffix
            return UserError(f"{self.source} is damaged, or not a {suffix} file ({error}); make or fetch it again.")
        return None

    @contextlib.contextmanager
    def seekable(self) -> Iterator[IO[bytes]]:
        """It as a file that can be read in any order: itself, or an unpacked copy that is gone afterwards."""
        if isinstance(self.source, Path) and self.source.suffix.lower() not in COMPRESSIONS:
            try:
                with open(self.source, "rb") as file:
                    yield file
                    self.advance(self.source.stat().st_size)
            except OSError as error:
                raise cannot_read(self.source, error) from None
            return
        with tempfile.TemporaryFile() as copy:
            for block in self.blocks():
                copy.write(block)
            copy.seek(0)
            yield copy


def cannot_read(path: Path, error: OSError) -> UserError:
    """What to say when the system refuses."""
    return UserError(f"Cannot read {path} ({error.strerror or error}); check the path and its permissions.")
