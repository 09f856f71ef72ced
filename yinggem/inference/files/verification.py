"""Reading the file of a checkpoint without trust, and without torch: whether it is whole, and the plain data in it."""

import mmap
import os
import pickletools
import re
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np

from yinggem.common.errors import UserError
from yinggem.inference.files.stored_tensors import Storage
from yinggem.inference.files.unpickling import NotPlainError, PlainUnpickler

# What plain data and tensors need. weights_only allows more, such as torch.FloatTensor(10**12), which takes terabytes.
PLAIN = re.compile(
    r"collections (OrderedDict|Counter)|_codecs encode|builtins (set|complex)|torch (Size|device|\w+Storage)"
    r"|torch (bool|uint\d+|int\d+|float\d+|bfloat16|complex\d+)|torch\._utils _rebuild_(tensor_v2|parameter)"
)
MAX_PICKLE = 1 << 28  # bytes of structure, tensors apart
LOCAL_HEADER = struct.Struct("<26x2H")  # of an entry of a zip file: the lengths of its name and of what follows that


def refusal(path: str | Path, reason: str) -> UserError:
    """The error that a checkpoint is not used because it `reason`, such as "is damaged"."""
    return UserError(f"The checkpoint {path} {reason}; use another one, such as a last.ckpt that train.py wrote.")


def verify(path: str | Path) -> None:
    """Check the archive before torch opens it; torch.load compares no checksum. 540 MB take 0.25 s.

    Raises:
        UserError: the file cannot be read, is damaged, or holds more than plain data and tensors.
    """
    with _verified(path) as archive:
        for _ in _operations(path, archive.structure):
            pass


def read_plain(path: str | Path, known: bool = False) -> Any:
    """What a file of torch.save holds, verified as by `verify`, with a `StoredTensor` in the place of each tensor.

    They stay in the file (memory-mapped) until they are copied.

    Args:
        known: every byte was compared with its checksum before. Those of tensors are compared when they are used.

    Raises:
        UserError: as `verify`, or the structure does not describe plain data and tensors that lie in the file.
    """
    with _verified(path, known) as archive:
        operations = _operations(path, archive.structure)
        try:
            return PlainUnpickler(len(archive.structure), archive.storage).run(operations)
        except NotPlainError:
            raise refusal(path, "cannot be read as plain data and tensors") from None


class _Archive:
    """The entries of a file of torch.save.

    Args:
        file: where `archive` lies.
    """

    def __init__(self, path: str | Path, file: BinaryIO, archive: zipfile.ZipFile) -> None:
        self.path, self.file, self.archive = path, file, archive
        structure = [entry for entry in archive.infolist() if entry.filename.endswith("/data.pkl")]
        if len(structure) != 1 or structure[0].file_size > MAX_PICKLE:
            raise refusal(path, "is not a file of torch.save")
        self.structure = archive.read(structure[0])
        self.folder = structure[0].filename.removesuffix("data.pkl")
        order = f"{self.folder}byteorder"
        is_big = order in archive.namelist() and archive.read(order) == b"big"
        self.order: Literal[">", "<"] = ">" if is_big else "<"
        self.content: np.ndarray | None = None
        self.storages: dict[tuple[str, str, str, int], Storage] = {}
        self.unread: set[str] = set()  # entries that were not compared with their checksums

    def storage(self, key: str, kind: str, code: str, count: int) -> Storage:
        """`count` numbers of an entry; the memory is the file's, and the same for all tensors."""
        which = key, kind, code, count
        if which not in self.storages:
            self.storages[which] = self._storage(*which)
        return self.storages[which]

    def compare_checksums(self, known: bool) -> None:
        """Of all entries; if the file is known, of all but those of tensors, which are put off."""
        for entry in self.archive.infolist():
            if known and entry.filename.startswith(f"{self.folder}data/"):
                self.unread.add(entry.filename)
                continue
            with self.archive.open(entry) as file:
                while file.read(1 << 20):  # zipfile compares the checksum at the end
                    pass

    def _storage(self, key: str, kind: str, code: str, count: int) -> Storage:
        entry, dtype = self.archive.getinfo(f"{self.folder}data/{key}"), np.dtype(code).newbyteorder(self.order)
        if count * dtype.itemsize > entry.file_size:
            raise NotPlainError("a storage has fewer numbers than it declares")
        self.file.seek(entry.header_offset)
        start = entry.header_offset + LOCAL_HEADER.size + sum(LOCAL_HEADER.unpack(self.file.read(LOCAL_HEADER.size)))
        if self.content is None:
            self.content = map_file(self.file)
        numbers, content, path = numbers_in(self.content, start, count, dtype), self.content, self.path

        def check() -> None:
            values = content[start : start + entry.file_size]
            if len(values) != entry.file_size or zlib.crc32(values.data) != entry.CRC:
                raise refusal(path, "is damaged or cut short")

        return Storage(kind, numbers, check if entry.filename in self.unread else None)


def map_file(file: BinaryIO) -> np.ndarray:
    """(N,) the bytes of a file. They can be written to, which changes no file: torch takes no others."""
    if os.name == "nt":  # Windows cannot replace a mapped file, and last.ckpt will be replaced
        file.seek(0)
        return np.frombuffer(bytearray(file.read()), np.uint8)
    return np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY), np.uint8)


def numbers_in(content: np.ndarray, start: int, count: int, dtype: np.dtype) -> np.ndarray:
    """(count,) numbers that lie in the bytes of a file from `start` on; NotPlainError where the file ends before."""
    values = content[start : start + count * dtype.itemsize]
    if len(values) != count * dtype.itemsize:
        raise NotPlainError("a storage reaches beyond the file")
    values = values.view(dtype)
    # Whoever writes these files aligns numbers, and on machines like this one; all others are copied.
    return values if values.flags.aligned and dtype.isnative else values.astype(dtype.newbyteorder("="))


@contextmanager
def _verified(path: str | Path, known: bool = False) -> Iterator[_Archive]:
    """The archive, every byte of it compared with its checksum; those of tensors when they are used, if it is known."""
    with _opened(path) as file:
        size, magic = os.fstat(file.fileno()).st_size, file.read(2)
        if magic != b"PK" and not zipfile.is_zipfile(file):
            raise refusal(path, "is empty" if not size else "is not a file of torch.save")
        try:
            with zipfile.ZipFile(file) as archive:
                _check_sizes(path, archive, size)
                opened = _Archive(path, file, archive)
                opened.compare_checksums(known)
                yield opened
        except UserError:
            raise
        except Exception:  # zipfile raises half a dozen kinds on damaged headers
            raise refusal(path, "is damaged or cut short") from None


def _opened(path: str | Path) -> BinaryIO:
    try:
        if os.path.exists(path) and not os.path.isfile(path):
            raise OSError(0, "not a file")
        return open(path, "rb")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"Cannot read the checkpoint {path} ({reason}); name a file that train.py wrote.") from None


def _check_sizes(path: str | Path, archive: zipfile.ZipFile, size: int) -> None:
    entries = archive.infolist()
    if sum(entry.file_size for entry in entries) > size or any(entry.compress_type for entry in entries):
        raise refusal(path, "is damaged or claims more than it holds")


def _operations(path: str | Path, structure: bytes) -> Iterator[tuple[pickletools.OpcodeInfo, Any, int | None]]:
    """Those of the pickle, as far as every name among them is one of plain data."""
    for operation in pickletools.genops(structure):
        opcode, name, _ = operation
        if "GLOBAL" in opcode.name and not PLAIN.fullmatch(str(name)):
            thing = str(name)[:80].replace(" ", ".")
            raise refusal(path, f"was refused because it holds {thing!r}, which is not plain data and could run code")
        yield operation
