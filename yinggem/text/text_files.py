"""Which files data.path names: a file, the text files of a folder, or what a glob matches."""

import glob
import hashlib
import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import accumulate
from pathlib import Path

from yinggem.common.errors import UserError
from yinggem.common.files import is_url
from yinggem.common.verified_files import FileState, state_of
from yinggem.text.formats import READERS, Source, cannot_read

# What a run leaves in its folder, and a sweep in its own, whatever they are called.
RUN_MARKS = (".hydra/config.yaml", "multirun.yaml", "checkpoints/last.ckpt", "checkpoints/best.ckpt")


def find_text_files(path: str | Path, cache_dir: Path | None = None) -> tuple[Path, ...]:
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
            files = _files_that_match(place, cache_dir)
        elif place.exists() and not place.is_file():
            raise UserError(f"data.path={path} is not a regular file; name a text file, a folder or a glob.")
        else:
            return (place,)
    except OSError as error:
        raise cannot_read(place, error) from None
    if not files:
        raise UserError(
            f"data.path={path} holds or matches no {' or '.join(READERS)} file (hidden files and the folders of runs "
            "do not count); check the folder or the pattern."
        )
    return tuple(sorted(files))


def _local_path(path: str | Path) -> Path:
    if "\0" in str(path):
        raise UserError(f"data.path={str(path)!r} holds a NUL character; name a text file, a folder or a glob.")
    if is_url(str(path)) and not Path(path).exists():
        raise UserError(f"data.path={path} is a URL, which cannot be read; download the text and name the file.")
    return Path(path).expanduser()


def _files_below(folder: Path, cache_dir: Path | None) -> list[Path]:
    """Every text file; a folder that cannot be listed, or a dangling link, is an error rather than a smaller corpus."""
    files = []
    for parent, folders, names in os.walk(folder, onerror=_raise):
        folders[:] = [name for name in folders if not _is_left_out(Path(parent, name), cache_dir)]
        paths = [Path(parent, name) for name in names if not name.startswith(".")]
        files += [path for path in paths if path.suffix.lower() in READERS and (path.is_file() or not path.exists())]
    return files


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


def _raise(error: OSError) -> None:
    raise error


def states_of(sources: Iterable[Source]) -> list[FileState]:
    """Path, size and times of every file, by which a change between two readings is noticed."""
    try:
        return [state_of(source) for source in sources if isinstance(source, Path)]
    except OSError as error:
        raise cannot_read(Path(str(error.filename)), error) from None


def find_copies(states: Sequence[FileState]) -> list[str]:
    """The paths of files that hold the same bytes as one before them; empty files do not count."""
    same_size = defaultdict(list)
    for path, size, *_ in states:
        same_size[size].append(path)
    copies, seen = [], set()
    for paths in (paths for size, paths in same_size.items() if size and len(paths) > 1):
        for path in paths:
            digest = sha256_of(Path(path))
            copies += [path] if digest in seen else []
            seen.add(digest)
    return sorted(copies)


def sha256_of(path: Path) -> str:
    """Hex digest of a file's bytes; UserError when it cannot be read."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise cannot_read(path, error) from None
