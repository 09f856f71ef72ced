"""Tokens of a text in memory-mapped shards: encoded on all cores, continued when interrupted, verified when opened.

A shard KEY.START.tokens holds the ids of the text from character START on (little-endian uint16 or uint32), a JSON
footer, and 16 bytes: the footer's length and the CRC-32 of everything before. The footer holds the key (text,
tokenizer and split), where the shard starts and stops, and its number of ids in every span. Shards end where
`bpe.pieces` cuts, so their ids joined are those of the whole text, and any of them can be made again on its own.
"""

import contextlib
import hashlib
import json
import logging
import os
import struct
import zlib
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from yinggem.common import cache_folder, files
from yinggem.common.processors import usable_cores
from yinggem.common.progress_bar import show_progress
from yinggem.common.verified_files import Files, recall, remember, state_of
from yinggem.text.encoding import encode_parallel
from yinggem.text.tokenizer import Tokenizer, from_state_dict
from yinggem.text.tokens.token_array import TokenArray

FORMAT = 2  # raise it when files of older versions must not be used any more
SHARD_TOKENS = 1 << 25  # 64 MiB of uint16; what a killed tokenization loses
BLOCK_BYTES = 8 << 20
MAX_FOOTER_BYTES = 1 << 16

Span = tuple[int, int]  # characters start .. stop-1, encoded on their own
Encoded = Generator[tuple[int, int, np.ndarray], None, None]  # (number of the span, characters, ids) in order

log = logging.getLogger(__name__)


def cache_key(*parts: Any) -> str:
    """A file name that stands for `parts`, which JSON can hold."""
    return hashlib.sha256(json.dumps([FORMAT, *parts], sort_keys=True).encode()).hexdigest()[:32]


@dataclass(frozen=True)
class Shard:
    """A part of the text: characters start .. stop-1, their ids (memory-mapped), how many of them in each span."""

    start: int
    stop: int
    ids: np.ndarray
    counts: list[int]


@dataclass(frozen=True)
class TokenCache:
    """The shards of one text in a folder.

    Args:
        key: stands for text, tokenizer and spans.
        spans: of the text, one after another from character 0 to its end.
        read: the characters of a span, in chunks.
        check: called before a shard is believed; raises when the text has changed.
    """

    folder: Path
    key: str
    tokenizer: Tokenizer
    spans: Sequence[Span]
    read: Callable[[int, int], Iterable[str]]
    check: Callable[[], None]

    def tokens(self) -> list[TokenArray]:
        """The ids of every span; what is missing or damaged is made first, by one process while others wait."""
        shards = self._open({})
        if not self._is_whole(shards):
            with cache_folder.locked(self._path(0)):
                shards = self._open(shards)  # another process may have made them meanwhile
                cache_folder.remove_leftovers(self._path(0))
                shards = self._complete(shards)
        chain = list(self._chain(shards))
        arrays = []
        for number in range(len(self.spans)):
            cuts = [(sum(shard.counts[:number]), sum(shard.counts[: number + 1]), shard.ids) for shard in chain]
            arrays.append(TokenArray([ids[start:stop] for start, stop, ids in cuts], self._dtype))
        return arrays

    @property
    def _total(self) -> int:
        return self.spans[-1][1]

    @property
    def _dtype(self) -> np.dtype:
        return np.dtype(self.tokenizer.dtype).newbyteorder("<")

    def _path(self, start: int) -> Path:
        return self.folder / f"{self.key}.{start:015d}.tokens"

    def _chain(self, shards: dict[int, Shard]) -> Iterator[Shard]:
        """Shards from the first on, each starting where the one before it stops, as far as there are any."""
        position = 0
        while shard := shards.get(position):
            yield shard
            position = shard.stop

    def _is_whole(self, shards: dict[int, Shard]) -> bool:
        return sum(shard.stop - shard.start for shard in self._chain(shards)) == self._total

    def _open(self, known: dict[int, Shard]) -> dict[int, Shard]:
        """Every usable shard by its start; `known` ones are not opened again.

        Every byte is read, unless the shards are large and have not changed since that was last done.
        """
        found = sorted(path for path in self.folder.glob(f"{self.key}.*.tokens") if path.is_file())
        paths = [path for path in found if _start(path) not in known]
        states, note = Files.of(map(state_of, paths)), self.folder / f"{self.key}.verified"
        trusted = recall(note, states) is True
        with ThreadPoolExecutor(usable_cores()) as pool:  # reading and crc32 release the interpreter lock
            opened = list(pool.map(lambda path: self._open_shard(path, trusted), paths))
        if not trusted and None not in opened:
            remember(note, states, True)
        return known | {shard.start: shard for shard in opened if shard is not None}

    def _open_shard(self, path: Path, trusted: bool = False) -> Shard | None:
        """None when the file is missing or damaged; `trusted` spares reading the ids."""
        dtype = self._dtype
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
                start, stop, counts = footer["start"], footer["stop"], footer["counts"]
                plausible = all(type(n) is int and n >= 0 for n in (start, stop, *counts)) and start < stop
                if not plausible or footer != self._footer(start, stop, counts) or self._path(start) != path:
                    return None
                if stop > self._total or len(counts) != len(self.spans) or sum(counts) * dtype.itemsize != payload:
                    return None
                if not trusted:
                    file.seek(0)
                    computed = _checksum(file, payload, dtype, self.tokenizer.vocab_size)
                    if computed is None or zlib.crc32(file.read(length + 8), computed) != checksum:
                        return None
            return Shard(start, stop, np.memmap(path, dtype, mode="r", shape=(sum(counts),)), counts)
        except (OSError, ValueError, TypeError, LookupError, RecursionError, struct.error):
            return None

    def _footer(self, start: int, stop: int, counts: list[int]) -> dict[str, Any]:
        return {"key": self.key, "dtype": self._dtype.name, "start": start, "stop": stop, "counts": counts}

    def _complete(self, shards: dict[int, Shard]) -> dict[int, Shard]:
        """Make the shards that are missing, in the order of the text."""
        shards, position = dict(shards), 0
        with show_progress("Tokenizing", self._total) as advance:
            while position < self._total:
                if position in shards:
                    advance(shards[position].stop - position)
                else:
                    shards |= self._make_row(position, shards, advance)
                position = shards[position].stop
        return shards

    def _make_row(self, start: int, known: dict[int, Shard], advance: Callable[[int], None]) -> dict[int, Shard]:
        """Make shards from character `start` up to the next known one, in one pass over the text."""
        made = {}
        with contextlib.closing(self._encode(start)) as stream:
            while start < self._total and start not in known:
                path = self._path(start)
                if path.exists():
                    log.warning("%s is damaged and is made again.", path)
                files.write_atomically(path, partial(self._write_shard, start=start, stream=stream))
                shard = self._open_shard(path)
                if shard is None:
                    raise cache_folder.not_what_was_written(path)
                made[start], start = shard, shard.stop
                advance(shard.stop - shard.start)
        return made

    def _encode(self, position: int) -> Encoded:
        """All ids from a character on where a shard starts."""
        for number, (start, stop) in enumerate(self.spans):
            if position < stop:
                for characters, ids in encode_parallel(self.read(max(start, position), stop), self.tokenizer):
                    yield number, characters, ids

    def _write_shard(self, file: BinaryIO, start: int, stream: Encoded) -> None:
        checksum, stop, counts = 0, start, [0] * len(self.spans)
        for number, characters, ids in stream:
            block = ids.astype(self._dtype, copy=False).tobytes()
            file.write(block)
            checksum, stop = zlib.crc32(block, checksum), stop + characters
            counts[number] += len(ids)
            if sum(counts) >= SHARD_TOKENS:
                break
        self.check()
        footer = json.dumps(self._footer(start, stop, counts)).encode()
        footer += len(footer).to_bytes(8, "little")
        file.write(footer + zlib.crc32(footer, checksum).to_bytes(8, "little"))


def _start(path: Path) -> int:
    """The character at which a shard starts, by its name; -1 for any other file."""
    number = path.name.split(".")[1]
    return int(number) if number.isdecimal() else -1


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


def write_tokenizer(file: BinaryIO, tokenizer: Tokenizer) -> None:
    """Write the saved state of a tokenizer with its fingerprint as checksum."""
    file.write(json.dumps({"fingerprint": tokenizer.fingerprint, "state": tokenizer.state_dict()}).encode())


def open_tokenizer(path: Path, settings: dict[str, Any] | None = None) -> Tokenizer | None:
    """The tokenizer in a file of `write_tokenizer`; None when it is missing, damaged or has other settings."""
    try:
        content = json.loads(path.read_bytes())
        tokenizer = from_state_dict(content["state"])
        usable = tokenizer.fingerprint == content["fingerprint"] and (
            settings is None or tokenizer.is_fitted_as(settings)
        )
    except (OSError, ValueError, TypeError, LookupError, RecursionError):
        return None
    return tokenizer if usable else None
