"""Tokens of a text in memory-mapped files: encoded on all cores, written whole or not at all, verified when opened.

A token file is the ids (little-endian uint16 or uint32; training split, then validation split), a JSON footer, and the
footer's length in 8 bytes. Its name and its footer hold the key it was made for: text, tokenizer and split.
"""

import contextlib
import hashlib
import json
import logging
import os
import sys
import tempfile
import time
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from filelock import FileLock, Timeout

from yinggem.bpe import pieces
from yinggem.errors import UserError
from yinggem.files import write_atomically
from yinggem.tokenizer import Tokenizer, from_state_dict

FORMAT = 1  # raise it when files of older versions must not be used any more
BLOCK_BYTES = 8 << 20
MAX_FOOTER_BYTES = 1 << 16
PROGRESS_AFTER_SECONDS = 2.0

log = logging.getLogger(__name__)


def default_cache_dir() -> Path:
    """$YINGGEM_CACHE, else yinggem in $XDG_CACHE_HOME or ~/.cache; a temporary folder where that cannot be written."""
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    wanted = Path(os.environ.get("YINGGEM_CACHE") or f"{home}/yinggem").expanduser()
    owner = os.getuid() if hasattr(os, "getuid") else os.environ.get("USERNAME", "")
    for folder in (wanted, Path(tempfile.gettempdir()) / f"yinggem-{owner}"):
        with contextlib.suppress(OSError, UserError):
            return usable_folder(folder)
    return Path(tempfile.mkdtemp(prefix="yinggem-"))


def usable_folder(folder: Path) -> Path:
    """`folder`, created if need be; UserError when files cannot be made in it."""
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError as error:
        raise UserError(f"Cannot write to the folder {folder} ({error.strerror or error}); choose another.") from None


def cache_key(*parts: Any) -> str:
    """A file name that stands for `parts`, which JSON can hold."""
    return hashlib.sha256(json.dumps([FORMAT, *parts], sort_keys=True).encode()).hexdigest()[:32]


def cached_file(path: Path, build: Callable[[BinaryIO], Any], open_verified: Callable[[Path], Any]) -> Any:
    """What `open_verified(path)` returns, after `build` wrote the file if it was missing or damaged.

    Only one process builds at a time; others wait for it. `open_verified` returns None for a file not to be used.
    """
    content = open_verified(path)
    if content is not None:
        return content
    with _locked(path):
        content = open_verified(path)  # another process may have built it meanwhile
        if content is None:
            if path.exists():
                log.warning("%s is damaged and is made again.", path)
            _remove_leftovers(path.parent)
            write_atomically(path, build)
            content = open_verified(path)
    if content is None:
        raise UserError(f"{path} does not hold what was just written to it; check the disk, or choose another folder.")
    return content


@contextlib.contextmanager
def _locked(path: Path, timeout: float = -1) -> Iterator[None]:
    try:
        with FileLock(f"{path}.lock", timeout=timeout):
            yield
    except OSError as error:
        if isinstance(error, Timeout):
            raise
        raise UserError(
            f"Cannot lock {path}.lock ({error.strerror or error}); choose another data.cache_dir."
        ) from None


def _remove_leftovers(folder: Path) -> None:
    """Remove partial files of processes that were killed: those whose lock nobody holds."""
    for partial in folder.glob(".*.partial"):
        target = folder / partial.name.rsplit(".", 2)[0].removeprefix(".")
        with contextlib.suppress(Timeout, UserError), _locked(target, timeout=0):
            partial.unlink(missing_ok=True)


def write_tokens(file: BinaryIO, key: str, spans: Sequence[Iterable[str]], total: int, tokenizer: Tokenizer) -> None:
    """Write the token file of one or more spans of text, `total` characters together, encoded one after another."""
    checksum, counts = 0, []
    with _progress(total) as advance:
        for span in spans:
            counts.append(0)
            for characters, ids in encode_parallel(span, tokenizer):
                block = ids.astype(ids.dtype.newbyteorder("<"), copy=False).tobytes()
                file.write(block)
                checksum = zlib.crc32(block, checksum)
                counts[-1] += len(ids)
                advance(characters)
    footer = {"key": key, "dtype": np.dtype(tokenizer.dtype).name, "counts": counts, "crc32": checksum}
    encoded = json.dumps(footer).encode()
    file.write(encoded + len(encoded).to_bytes(8, "little"))


def open_tokens(path: Path, key: str, tokenizer: Tokenizer) -> tuple[np.ndarray, list[int]] | None:
    """All ids of a token file, memory-mapped, and the number of each span; None when it is missing or damaged."""
    dtype = np.dtype(tokenizer.dtype).newbyteorder("<")
    try:
        with open(path, "rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(size - 8)
            length = int.from_bytes(file.read(8), "little")
            payload = size - 8 - length
            if length > MAX_FOOTER_BYTES or payload < 0:
                return None
            file.seek(payload)
            footer = json.loads(file.read(length))
            counts = footer["counts"]
            if footer["key"] != key or footer["dtype"] != dtype.name or sum(counts) * dtype.itemsize != payload:
                return None
            file.seek(0)
            if footer["crc32"] != _checksum(file, payload, dtype, tokenizer.vocab_size):
                return None
        return np.memmap(path, dtype, mode="r", shape=(sum(counts),)), counts
    except (OSError, ValueError, TypeError, LookupError, RecursionError):
        return None


def _checksum(file: BinaryIO, size: int, dtype: np.dtype, vocab_size: int) -> int | None:
    """CRC-32 of the next `size` bytes, read in blocks to keep them out of this process's memory; None for a wild id."""
    checksum = 0
    for start in range(0, size, BLOCK_BYTES):
        block = file.read(min(BLOCK_BYTES, size - start))
        checksum = zlib.crc32(block, checksum)
        if np.frombuffer(block, dtype).max() >= vocab_size:
            return None
    return checksum


def encode_parallel(texts: Iterable[str], tokenizer: Tokenizer) -> Iterator[tuple[int, np.ndarray]]:
    """(characters, ids) of successive pieces of the text, in order; together exactly the ids of the whole text."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    waiting: deque[tuple[int, Future[np.ndarray]]] = deque()
    with ThreadPoolExecutor(cores) as pool:  # tiktoken releases the interpreter lock
        try:
            for piece in _stream_pieces(texts):
                waiting.append((len(piece), pool.submit(tokenizer.encode_array, piece)))
                if len(waiting) > 8 * cores:
                    characters, future = waiting.popleft()
                    yield characters, future.result()
            for characters, future in waiting:
                yield characters, future.result()
        finally:
            pool.shutdown(cancel_futures=True)


def _stream_pieces(texts: Iterable[str]) -> Iterator[str]:
    """`bpe.pieces` of the joined texts: a chunk's last piece may be incomplete and waits for the next chunk."""
    rest = ""
    for text in texts:
        *complete, rest = [*pieces(rest + text)] or [""]
        yield from complete
    if rest:
        yield rest


@contextlib.contextmanager
def _progress(total: int) -> Iterator[Callable[[int], None]]:
    """Gives a function to report characters done; a bar appears on a terminal once the work has taken a while."""
    start, bar, done = time.monotonic(), None, 0

    def advance(characters: int) -> None:
        nonlocal bar, done
        done += characters
        if bar is None and sys.stderr.isatty() and time.monotonic() - start > PROGRESS_AFTER_SECONDS:
            from rich.console import Console
            from rich.progress import Progress

            bar = Progress(console=Console(stderr=True), transient=True)
            bar.start()
            bar.add_task("Tokenizing", total=total)
        if bar is not None:
            bar.update(bar.task_ids[0], completed=done)

    try:
        yield advance
    finally:
        if bar is not None:
            bar.stop()


def write_tokenizer(file: BinaryIO, tokenizer: Tokenizer) -> None:
    """Write the saved state of a tokenizer with its fingerprint as checksum."""
    file.write(json.dumps({"fingerprint": tokenizer.fingerprint, "state": tokenizer.state_dict()}).encode())


def open_tokenizer(path: Path, settings: dict[str, Any]) -> Tokenizer | None:
    """The tokenizer in a file of `write_tokenizer`; None when it is missing, damaged or has other settings."""
    try:
        content = json.loads(path.read_bytes())
        tokenizer = from_state_dict(content["state"])
        usable = tokenizer.fingerprint == content["fingerprint"] and tokenizer.settings == settings
    except (OSError, ValueError, TypeError, LookupError, RecursionError):
        return None
    return tokenizer if usable else None
