"""A folder of token shards in litdata's format, with its tokenizer, opened without trust.

FOLDER/tokenizer.json is the tokenizer as plain data, FOLDER/train and FOLDER/val are data sets of litdata's
TokensLoader, FOLDER/checksums.json has the CRC-32 of every file of theirs. The validation part and every
chunk of it hold a multiple of BLOCK tokens. litdata drops what does not fill a block at the end of a chunk: so it drops
nothing here.
"""

import importlib
import json
import os
import re
import tempfile
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from yinggem.common.cache_folder import usable_folder
from yinggem.common.errors import UserError
from yinggem.common.files import is_url
from yinggem.common.processors import usable_cores
from yinggem.common.verified_files import Files, recall, remember, state_of
from yinggem.text.tokenizer import Tokenizer
from yinggem.text.tokens import token_cache
from yinggem.text.tokens.token_array import TokenArray

BLOCK = 1024  # tokens; of the validation part
MAX_JSON_BYTES = 1 << 28


def litdata() -> Any:
    """The library, which must not ask a package registry for its newest version; UserError when it is missing."""
    os.environ.setdefault("LITDATA_DISABLE_VERSION_CHECK", "1")
    try:
        return importlib.import_module("litdata")
    except ImportError as error:
        raise UserError(f"data=streaming needs litdata ({error}): pip install 'yinggem[streaming]'.") from None


@dataclass(frozen=True)
class Part:
    """One of the data sets: its chunks with their number of tokens."""

    name: str
    place: str  # folder or URL
    chunks: list[dict[str, Any]]

    @property
    def files(self) -> list[str]:
        """Index and chunks, relative to the folder of both parts."""
        return [f"{self.name}/{file}" for file in ("index.json", *[chunk["filename"] for chunk in self.chunks])]

    def windows(self, block: int) -> int:
        """How many blocks of `block` tokens litdata cuts it into."""
        return sum(chunk["dim"] // block for chunk in self.chunks)


@dataclass(frozen=True)
class TokenShards:
    """What is known of a folder before its tokens are read; `fingerprint` stands for every byte of its files."""

    tokenizer: Tokenizer
    train: Part
    val: Part
    fingerprint: str


def open_shards(place: str, cache_dir: Path) -> TokenShards:
    """Open and verify a folder of `write_shards`, local or at a URL that litdata can read.

    Of a URL, the validation part is copied to `cache_dir` and verified; training chunks come later, unverified.

    Raises:
        UserError: litdata is missing; the folder is missing, foreign or damaged.
    """
    litdata()
    place = place if place == "/" else place.rstrip("/")
    if not is_url(place) and not os.path.isdir(place):
        raise UserError(f"data.path={place} is not a folder; name one that `yinggem shard` made, or its URL.")
    with tempfile.TemporaryDirectory() as temporary:
        tokenizer = token_cache.open_tokenizer(fetch(place, "tokenizer.json", Path(temporary)))
        checksums = _read_json(fetch(place, "checksums.json", Path(temporary)))
    if tokenizer is None or not isinstance(checksums, dict):
        raise _foreign(place, f"{'checksums' if tokenizer else 'tokenizer'}.json is damaged")
    fingerprint = token_cache.cache_key("shards", tokenizer.fingerprint, checksums)
    train, val = (_open_part(place, name) for name in ("train", "val"))
    if any(chunk["dim"] % BLOCK for chunk in val.chunks):
        raise _foreign(place, f"the chunks of val/ are not multiples of {BLOCK} tokens")
    if not is_url(place):
        _verify(place, Path(place), [*train.files, *val.files], checksums, cache_dir)
        return TokenShards(tokenizer, train, val, fingerprint)
    copy = usable_folder(cache_dir / token_cache.cache_key(place, checksums))
    usable_folder(copy / val.name)
    for name in val.files:
        fetch(place, name, copy)
    _verify(place, copy, val.files, checksums, cache_dir)
    return TokenShards(tokenizer, train, replace(val, place=str(copy / val.name)), fingerprint)


def _verify(place: str, folder: Path, names: list[str], checksums: dict[str, int], cache_dir: Path) -> None:
    """Read every byte of the files, unless they are large and have not changed since that was last done."""
    for name in names:
        if not (folder / name).is_file():
            raise _foreign(place, f"{name} is missing")
    states = Files.of(state_of(folder / name) for name in names)
    note = cache_dir / f"{token_cache.cache_key('shards', os.path.abspath(folder))}.verified"
    if recall(note, states) == checksums:
        return
    for name, checksum in zip(names, checksums_of(folder, names), strict=True):
        if checksums.get(name) != checksum:
            raise _foreign(place, f"{name} is damaged")
    remember(note, states, checksums)


def checksums_of(folder: Path, names: list[str]) -> list[int]:
    """CRC-32 of every file."""

    def checksum(name: str) -> int:
        found = 0
        with open(folder / name, "rb") as file:
            while block := file.read(1 << 23):
                found = zlib.crc32(block, found)
        return found

    with ThreadPoolExecutor(usable_cores()) as pool:  # reading and crc32 release the interpreter lock
        return list(pool.map(checksum, names))


def _read_json(path: Path) -> Any:
    """What the file holds; None when it is damaged or far too large."""
    try:
        return json.loads(path.read_bytes()) if path.stat().st_size <= MAX_JSON_BYTES else None
    except (OSError, ValueError, RecursionError):
        return None


def _open_part(place: str, name: str) -> Part:
    with tempfile.TemporaryDirectory() as temporary:
        index = _read_json(fetch(f"{place}/{name}", "index.json", Path(temporary)))
    try:
        chunks, config = index["chunks"], index["config"]
        known = config["item_loader"] == "TokensLoader" and config["compression"] is config["encryption"] is None
        whole = all(_is_whole(chunk) for chunk in chunks)
    except (ValueError, TypeError, LookupError):
        raise _foreign(place, f"{name}/index.json is damaged") from None
    if not (known and whole and chunks):
        raise _foreign(place, f"{name}/ does not hold tokens in the format of litdata's TokensLoader")
    return Part(name, f"{place}/{name}", chunks)


def _is_whole(chunk: dict[str, Any]) -> bool:
    """Whether the sizes of a chunk are consistent: a header of 4 bytes for each item and 8 more, then the tokens."""
    tokens, items, size = chunk["dim"], chunk["chunk_size"], chunk["chunk_bytes"]
    plain = all(type(number) is int and number > 0 for number in (tokens, items, size))
    fits = plain and size - 4 * (items + 2) in (2 * tokens, 4 * tokens)
    return fits and re.fullmatch(r"[\w-]+\.bin", chunk["filename"]) is not None


def fetch(place: str, name: str, folder: Path) -> Path:
    """A file of the folder or URL `place`: where it is, or a copy in `folder`; UserError when it cannot be had."""
    if not is_url(place):
        if not Path(place, name).is_file():
            raise _foreign(place, f"{name} is missing")
        return Path(place, name)
    from litdata.streaming.downloader import get_downloader

    try:
        get_downloader(place, str(folder), [], {}).download_file(f"{place}/{name}", str(folder / name))
    except Exception as error:  # every storage raises its own
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(f"Cannot fetch {place}/{name} ({reason}); check the address and your access to it.") from None
    return folder / name


def read_validation(part: Part, vocab_size: int) -> TokenArray:
    """Every id of the validation part in order, in memory."""
    from litdata import StreamingDataset
    from litdata.streaming import TokensLoader

    data = StreamingDataset(part.place, item_loader=TokensLoader(block_size=BLOCK))
    ids = np.concatenate([data[number] for number in range(part.windows(BLOCK))])
    check_ids(ids, vocab_size, part.place)
    return TokenArray([ids], ids.dtype)


def open_training(part: Part, kind: np.dtype) -> TokenArray:
    """The ids of the training part, memory-mapped and not looked at yet; none of a part at a URL.

    Args:
        kind: that of the validation part's ids.

    Raises:
        UserError: the chunks hold ids of another kind.
    """
    pieces = []
    for chunk in [] if is_url(part.place) else part.chunks:
        start = 4 * (chunk["chunk_size"] + 2)
        if chunk["chunk_bytes"] - start != chunk["dim"] * kind.itemsize:
            raise _foreign(part.place, f"the ids of its training and validation parts differ in size ({kind})")
        place = Path(part.place, chunk["filename"])
        pieces.append(np.memmap(place, kind, "r", start, (chunk["dim"],)).view(np.ndarray))
    return TokenArray(pieces, kind)


def check_ids(ids: np.ndarray, vocab_size: int, place: str) -> None:
    """UserError for an id outside the vocabulary, which only a damaged or foreign chunk holds."""
    if ids.dtype.kind != "u":
        raise _foreign(place, f"its ids are {ids.dtype}, not unsigned integers")
    if ids.size and int(ids.max()) >= vocab_size:
        raise _foreign(place, f"its id {int(ids.max())} is outside the vocabulary of {vocab_size}")


def _foreign(place: str, reason: str) -> UserError:
    return UserError(f"data.path={place} cannot be used: {reason}; make it again with `yinggem shard --output FOLDER`.")
