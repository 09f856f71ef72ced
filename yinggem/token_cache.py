"""Tokens of a text in memory-mapped files: encoded on all cores, written whole or not at all, verified when opened.

A token file is the ids (little-endian uint16 or uint32, one span of text after another), a JSON footer, and 16 bytes:
the footer's length and the CRC-32 of everything before. The footer holds the key: text, tokenizer and split.
"""

import contextlib
import hashlib
import json
import os
import struct
import sys
import time
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from yinggem.bpe import pieces
from yinggem.tokenizer import Tokenizer, from_state_dict

FORMAT = 1  # raise it when files of older versions must not be used any more
BLOCK_BYTES = 8 << 20
MAX_FOOTER_BYTES = 1 << 16
PROGRESS_AFTER_SECONDS = 2.0


def cache_key(*parts: Any) -> str:
    """A file name that stands for `parts`, which JSON can hold."""
    return hashlib.sha256(json.dumps([FORMAT, *parts], sort_keys=True).encode()).hexdigest()[:32]


def write_tokens(file: BinaryIO, key: str, spans: Sequence[Iterable[str]], total: int, tokenizer: Tokenizer) -> None:
    """Write the token file of `spans` of text, `total` characters together, each encoded on its own."""
    checksum, counts = 0, []
    dtype = _stored_dtype(tokenizer)
    with _progress(total) as advance:
        for span in spans:
            counts.append(0)
            for characters, ids in encode_parallel(span, tokenizer):
                block = ids.astype(dtype, copy=False).tobytes()
                file.write(block)
                checksum = zlib.crc32(block, checksum)
                counts[-1] += len(ids)
                advance(characters)
    footer = json.dumps({"key": key, "dtype": dtype.name, "counts": counts}).encode()
    footer += len(footer).to_bytes(8, "little")
    file.write(footer + zlib.crc32(footer, checksum).to_bytes(8, "little"))


def open_tokens(path: Path, key: str, spans: int, tokenizer: Tokenizer) -> tuple[np.ndarray, list[int]] | None:
    """All ids of a token file, memory-mapped, and how many each span has; None when it is missing or damaged."""
    dtype = _stored_dtype(tokenizer)
    try:
        with open(path, "rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(size - 16)
            length, checksum = struct.unpack("<QQ", file.read(16))
            payload = size - 16 - length
            if length > MAX_FOOTER_BYTES or payload < 0:
                return None
            file.seek(payload)
            footer = json.loads(file.read(length))
            counts = footer["counts"]
            expected = {"key": key, "dtype": dtype.name, "counts": counts}
            whole = len(counts) == spans and all(type(n) is int and n >= 0 for n in counts)
            if not whole or footer != expected or sum(counts) * dtype.itemsize != payload:
                return None
            file.seek(0)
            computed = _checksum(file, payload, dtype, tokenizer.vocab_size)
            if computed is None or zlib.crc32(file.read(length + 8), computed) != checksum:
                return None
        ids = np.memmap(path, dtype, mode="r", shape=(sum(counts),))
    except (OSError, ValueError, TypeError, LookupError, RecursionError, struct.error):
        return None
    return ids, counts


def _stored_dtype(tokenizer: Tokenizer) -> np.dtype:
    return np.dtype(tokenizer.dtype).newbyteorder("<")


def _checksum(file: BinaryIO, size: int, dtype: np.dtype, vocab_size: int) -> int | None:
    """CRC-32 of the next `size` bytes of ids; None if one is outside the vocabulary.

    The bytes are read rather than mapped, to keep them out of this process's memory.
    """
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
