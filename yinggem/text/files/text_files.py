"""Which files data.path names: a file, the text files of a folder, or what a glob matches."""

import glob
import hashlib
import os
from collections.abc import Iterable, Iterator
from itertools import accumulate
from pathlib import Path

import numpy as np

from yinggem.common.errors import UserError
from yinggem.common.files import is_url
from yinggem.common.verified_files import Files, state_of
from yinggem.text.files.compression import Source, cannot_read
from yinggem.text.files.formats import is_searched, named_suffixes

# What a run leaves in its folder, and a sweep in its own, whatever they are called.
RUN_MARKS = (".hydra/config.yaml", "multirun.yaml", "checkpoints/last.ckpt", "checkpoints/best.ckpt")


class FileList:
    """Paths in the order they were added, in about as many bytes as their names have: there may be millions."""

    def __init__(self, paths: Iterable[Path] = ()) -> None:
        self._folders: list[tuple[str, bytearray]] = []  # with the names of files in them, each ended by a NUL
        self._count = 0
        for path in paths:
            self.add(str(path.parent), path.name)

    def add(self, folder: str, name: str) -> None:
        """One more."""
        if not self._folders or self._folders[-1][0] != folder:
            self._folders.append((folder, bytearray()))
        self._folders[-1][1].extend(os.fsencode(name) + b"\0")
        self._count += 1

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Path]:
        for folder, names in self._folders:
            start = 0
            while (end := names.find(b"\0", start)) >= 0:
                yield Path(folder, os.fsdecode(bytes(names[start:end])))
                start = end + 1


def find_text_files(path: str | Path, cache_dir: Path | None = None) -> FileList:
    """The file, every text file under the folder, or every file the glob matches (`**` too); sorted by path.

    Below a folder, and where a glob has wildcards, three things are left out: hidden files and folders, which hold
    copies that editors keep; the folders of runs and sweeps, which hold what a model wrote; and `cache_dir`. One of
    them is read all the same if it is named without a wildcard.

    Raises:
        UserError: nothing is there, or something other than regular files is.
    """
    place = _local_path(path)
    try:
        if place.is_dir():
            files = _files_below(place, cache_dir)
        elif glob.has_magic(str(place)) and not place.exists():
            files = FileList(sorted(_files_that_match(place, cache_dir)))
        elif place.exists() and not place.is_file():
            raise UserError(f"data.path={path} is not a regular file; name a text file, a folder or a glob.")
        else:
            return FileList([place])
    except OSError as error:
        raise cannot_read(place, error) from None
    if not len(files):
        raise UserError(
            f"data.path={path} holds or matches no {named_suffixes()} file (hidden files and the folders of runs "
            "do not count); check the folder or the pattern."
        )
    return files


def _local_path(path: str | Path) -> Path:
    if "\0" in str(path):
        raise UserError(f"data.path={str(path)!r} holds a NUL character; name a text file, a folder or a glob.")
    if is_url(str(path)) and not Path(path).exists():
        raise UserError(f"data.path={path} is a URL, which cannot be read; download the text and name the file.")
    return Path(path).expanduser()


def _files_below(folder: Path, cache_dir: Path | None) -> FileList:
    """Every text file; a folder that cannot be listed, or a dangling link, is an error rather than a smaller corpus."""
    files, waiting = FileList(), [_listed(folder)]
    while waiting:  # not a recursion: folders may be nested as deep as the system allows
        entry = next(waiting[-1], None)
        if entry is None:
            waiting.pop()
            continue
        parent, name, is_folder = entry
        if is_folder:
            below = Path(parent, name)
            if not _is_left_out(below, cache_dir):
                waiting.append(_listed(below))
        elif is_searched(name) and not name.startswith("."):
            files.add(parent, name)
    return files


def _listed(folder: Path) -> Iterator[tuple[str, str, bool]]:
    """Folder, name, and whether it is a folder, of all files and folders in it, in order; links to folders left out."""
    names, folders = [], set()
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                folders.add(entry.name)
            elif not (entry.is_file() or (entry.is_symlink() and not os.path.exists(entry.path))):
                continue  # a pipe, a device, a link to a folder
            names.append(entry.name)
    names.sort(reverse=True)
    while names:
        name = names.pop()
        yield str(folder), name, name in folders


def _files_that_match(pattern: Path, cache_dir: Path | None) -> list[Path]:
    """Every file that matches; wildcards do not match hidden names, as in a shell."""
    plain = next(number for number, part in enumerate(pattern.parts) if glob.has_magic(part))
    known: dict[Path, bool] = {}

    def is_left_out(folder: Path) -> bool:
        if folder not in known:
            known[folder] = _is_left_out(folder, cache_dir, hidden=False)
        return known[folder]

    paths = [Path(name) for name in glob.glob(str(pattern), recursive=True)]
    return [
        path for path in paths
        if path.is_file() and not any(map(is_left_out, list(accumulate(path.parts, Path))[plain:-1]))
    ]  # fmt: skip


def _is_left_out(folder: Path, cache_dir: Path | None, hidden: bool = True) -> bool:
    if hidden and folder.name.startswith("."):
        return True
    if any((folder / mark).exists() for mark in RUN_MARKS):
        return True
    return cache_dir is not None and folder.resolve() == cache_dir.resolve()


def state_of_files(sources: Iterable[Source]) -> Files:
    """Path, size and times of every file, by which a change between two readings is noticed."""
    try:
        return Files.of(state_of(source) for source in sources if isinstance(source, Path))
    except OSError as error:
        raise cannot_read(Path(str(error.filename)), error) from None


def find_copies(sources: Iterable[Source]) -> list[str]:
    """The paths of files that hold the same bytes as one before them; empty files do not count."""
    sizes = np.array([path.stat().st_size for path in sources if isinstance(path, Path)])
    _, which, counts = np.unique(sizes, return_inverse=True, return_counts=True)
    candidates = (counts[which] > 1) & (sizes > 0)
    digests = np.zeros(len(sizes), np.uint64)
    for place, path in enumerate(path for path in sources if isinstance(path, Path)):
        if candidates[place]:
            digests[place] = int(sha256_of(path)[:16], 16)
    first = np.zeros(len(sizes), bool)
    first[np.unique(digests, return_index=True)[1]] = True
    return [str(path) for path, known in zip(sources, candidates & ~first, strict=True) if known]


def sha256_of(path: Path) -> str:
    """Hex digest of a file's bytes; UserError when it cannot be read."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise cannot_read(path, error) from None
