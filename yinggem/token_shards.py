"""A folder of token shards in litdata's format, with its tokenizer: written from a corpus, opened without trust.

FOLDER/tokenizer.json is the tokenizer as plain data, FOLDER/train and FOLDER/val are data sets of litdata's
TokensLoader. The validation part is a whole number of BLOCK tokens, in chunks that are as well, so that litdata, which
leaves out what does not fill a block at the end of a chunk, gives back every token of it.
"""

import contextlib
import hashlib
import importlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from yinggem import files, token_cache
from yinggem.corpus import TokenizedSplit
from yinggem.errors import UserError
from yinggem.files import URL
from yinggem.token_array import TokenArray
from yinggem.tokenizer import Tokenizer
from yinggem.waiting import waiting

BLOCK = 1024  # tokens; of the validation part
ITEM = 1 << 16  # tokens handed to litdata at once
CHUNK_TOKENS = 1 << 25  # 64 MiB of uint16, what litdata advises for object storage
MAX_INDEX_BYTES = 1 << 28


def litdata() -> Any:
    """The library, which must not ask a package registry for its newest version; UserError when it is missing."""
    os.environ.setdefault("LITDATA_DISABLE_VERSION_CHECK", "1")
    try:
        return importlib.import_module("litdata")
    except ImportError as error:
        raise UserError(f"data=streaming needs litdata ({error}): pip install 'yinggem[streaming]'.") from None


def write_shards(output: Path, split: TokenizedSplit, tokenizer: Tokenizer, chunk_tokens: int = CHUNK_TOKENS) -> None:
    """Write the folder, whole or not at all.

    Args:
        chunk_tokens: per file, a multiple of BLOCK.
        split: its two parts joined are cut anew, at a whole number of BLOCK tokens before the end.

    Raises:
        UserError: the folder exists; the text is shorter than a block for each part; the disk is full.
    """
    litdata()
    if output.exists():
        raise UserError(f"{output} exists already; choose another --output, or remove it first.")
    ids = split.train + split.val
    cut = len(ids) - len(split.val) // BLOCK * BLOCK
    if not 0 < cut < len(ids):
        raise UserError(
            f"A validation part of {len(split.val)} tokens is too short for shards; {BLOCK} is the least: "
            "use a longer text or a larger --val-fraction."
        )
    partial = output.with_name(f".{output.name}.{os.getpid()}.partial")
    try:
        partial.mkdir(parents=True)
        with waiting("Writing", len(ids)) as advance:
            for name, part in (("train", ids.part(0, cut)), ("val", ids.part(cut))):
                for count in _write_part(partial / name, part, chunk_tokens):
                    advance(count)
        with open(partial / "tokenizer.json", "wb") as file:
            token_cache.write_tokenizer(file, tokenizer)
        partial.rename(output)
    except OSError as error:
        raise files.cannot_write(output, error) from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _write_part(folder: Path, ids: TokenArray, chunk_tokens: int) -> Iterator[int]:
    from litdata.streaming import TokensLoader
    from litdata.streaming.cache import Cache

    folder.mkdir()
    cache = Cache(str(folder), chunk_size=chunk_tokens, item_loader=TokensLoader())
    size = min(ITEM, chunk_tokens)
    for number, start in enumerate(range(0, len(ids), size)):
        block = ids[start : start + size]
        cache[number] = block.astype(ids.dtype.newbyteorder("="))  # a copy: litdata keeps it until the chunk is full
        yield len(block)
    cache.done()
    with contextlib.redirect_stdout(None):  # it prints an empty line
        cache.merge()


@dataclass(frozen=True)
class Part:
    """One of the data sets: its chunks with their number of tokens."""

    place: str  # folder or URL
    chunks: list[dict[str, Any]]
    digest: str  # of the index, which says when it was made

    def windows(self, block: int) -> int:
        """How many blocks of so many tokens litdata cuts it into."""
        return sum(chunk["dim"] // block for chunk in self.chunks)


@dataclass(frozen=True)
class TokenShards:
    """What is known of a folder before its tokens are read."""

    tokenizer: Tokenizer
    train: Part
    val: Part


def open_shards(place: str) -> TokenShards:
    """Open a folder of `write_shards`, local or at a URL that litdata can read.

    Raises:
        UserError: litdata is missing; the folder is missing, foreign or damaged.
    """
    litdata()
    if not URL.match(place) and not os.path.isdir(place):
        raise UserError(f"data.path={place} is no folder; name one that `python -m yinggem.shard` made, or its URL.")
    with tempfile.TemporaryDirectory() as temporary:
        tokenizer = token_cache.open_tokenizer(fetch(place, "tokenizer.json", Path(temporary)))
    if tokenizer is None:
        raise _foreign(place, "tokenizer.json is damaged")
    train, val = (_open_part(place, name) for name in ("train", "val"))
    if any(chunk["dim"] % BLOCK for chunk in val.chunks):
        raise _foreign(place, f"the chunks of val/ are no multiples of {BLOCK} tokens")
    return TokenShards(tokenizer, train, val)


def _open_part(place: str, name: str) -> Part:
    folder = f"{place.rstrip('/')}/{name}"
    with tempfile.TemporaryDirectory() as temporary:
        path = fetch(folder, "index.json", Path(temporary))
        try:
            if path.stat().st_size > MAX_INDEX_BYTES:
                raise ValueError("too large")
            content = path.read_bytes()
            index = json.loads(content)
            chunks, config = index["chunks"], index["config"]
            known = config["item_loader"] == "TokensLoader" and config["compression"] is config["encryption"] is None
            whole = all(_is_whole(chunk) for chunk in chunks)
        except (OSError, ValueError, TypeError, LookupError, RecursionError):
            raise _foreign(place, f"{name}/index.json is damaged") from None
    if not (known and whole and chunks):
        raise _foreign(place, f"{name}/ holds no tokens of litdata's TokensLoader")
    if not URL.match(place):
        for chunk in chunks:
            path = Path(folder, chunk["filename"])
            if not path.is_file() or path.stat().st_size != chunk["chunk_bytes"]:
                raise _foreign(place, f"{name}/{chunk['filename']} is missing or cut short")
    return Part(folder, chunks, hashlib.sha256(content).hexdigest())


def _is_whole(chunk: dict[str, Any]) -> bool:
    """Whether the sizes of a chunk belong together: a header of 4 bytes for each item and 8 more, then the tokens."""
    tokens, items, size = chunk["dim"], chunk["chunk_size"], chunk["chunk_bytes"]
    plain = all(type(number) is int and number > 0 for number in (tokens, items, size))
    fits = plain and size - 4 * (items + 2) in (2 * tokens, 4 * tokens)
    return fits and re.fullmatch(r"[\w-]+\.bin", chunk["filename"]) is not None


def fetch(place: str, name: str, folder: Path) -> Path:
    """A file of the folder or URL `place`: where it is, or a copy in `folder`; UserError when it cannot be had."""
    if not URL.match(place):
        if not Path(place, name).is_file():
            raise _foreign(place, f"{name} is missing")
        return Path(place, name)
    from litdata.streaming.downloader import get_downloader

    try:
        get_downloader(place, str(folder), [], {}).download_file(f"{place}/{name}", str(folder / name))
    except Exception as error:  # every storage has its own kinds
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(f"Cannot fetch {place}/{name} ({reason}); check the address and your access to it.") from None
    return folder / name


def read_validation(part: Part, vocab_size: int, cache_dir: Path) -> TokenArray:
    """Every id of the validation part in order, in memory; chunks at a URL are copied to the cache first."""
    from litdata import StreamingDataset
    from litdata.streaming import TokensLoader

    folder = Path(part.place)
    if URL.match(part.place):
        folder = files.usable_folder(cache_dir / token_cache.cache_key("val", part.place, part.digest))
        for name in ("index.json", *[chunk["filename"] for chunk in part.chunks]):
            fetch(part.place, name, folder)
    data = StreamingDataset(str(folder), item_loader=TokensLoader(block_size=BLOCK))
    blocks = [data[number] for number in range(part.windows(BLOCK))]
    ids = np.concatenate(blocks)
    check_ids(ids, vocab_size, part.place)
    return TokenArray([ids], ids.dtype)


def check_ids(ids: np.ndarray, vocab_size: int, place: str) -> None:
    """UserError for an id outside the vocabulary, which only a damaged or foreign chunk holds."""
    if ids.dtype.kind != "u":
        raise _foreign(place, f"its ids are {ids.dtype}, not unsigned integers")
    if ids.size and int(ids.max()) >= vocab_size:
        raise _foreign(place, f"it holds an id of {int(ids.max())} where the vocabulary has {vocab_size}")


def _foreign(place: str, reason: str) -> UserError:
    return UserError(
        f"data.path={place} cannot be used: {reason}; make it again with `python -m yinggem.shard --output FOLDER`."
    )
