"""Say what the cache holds, and clear it: yinggem cache --clear"""

import contextlib
import re
import time
from collections.abc import Iterator
from pathlib import Path

from yinggem.common.cache_folder import PRIVATE, default_cache_dir
from yinggem.common.command_line import Parser

# What files are for, the folder below the cache's that they are in, and their names. All of them are made again when
# they are needed. Others are left alone: the folder may be one that a person chose.
KINDS = {
    "texts": ("texts as ids, and their tokenizers", ".", r"[0-9a-f]{32}\..*|tinyshakespeare\.txt"),
    "memory": ("what counting knows of training texts", "memory", PRIVATE.pattern),
    "weights": ("weights rounded to 8 or 4 bits at first use", "weights", PRIVATE.pattern),
    "shards": ("shards that came over the network", "streaming", r".+"),
}
KEPT = ".lock", ".partial"  # somebody may be waiting for them, or writing them
DAY = 86400  # seconds


def main(arguments: list[str] | None = None) -> None:
    """List or clear."""
    parser = Parser("yinggem cache", description=__doc__, allow_abbrev=False)
    parser.add_argument(
        "--clear", nargs="*", choices=KINDS, metavar="KIND", help=f"remove {', '.join(KINDS)}; without a name all"
    )
    options = parser.parse_args(arguments)
    folder = default_cache_dir()
    print(folder)
    for kind, (meaning, *_) in KINDS.items():
        found = [*files_of(folder, kind)]
        if options.clear is not None and kind in (options.clear or KINDS):
            print(f"{kind:8}{removed(found)}")
        else:
            print(f"{kind:8}{described(found):40}{meaning}")


def files_of(folder: Path, kind: str) -> Iterator[Path]:
    """Those of a kind."""
    _, place, pattern = KINDS[kind]
    for path in sorted((folder / place).glob("**/*" if kind == "shards" else "*")):
        if re.fullmatch(pattern, path.name) and path.suffix not in KEPT and path.is_file() and not path.is_symlink():
            yield path


def described(paths: list[Path]) -> str:
    """How many, how large, and how many days ago the oldest and the newest were made or used."""
    states = [path.stat() for path in paths]
    if not states:
        return "nothing"
    ages = sorted(int((time.time() - state.st_mtime) / DAY) for state in states)
    days = f"{ages[0]}" if ages[0] == ages[-1] else f"{ages[0]} to {ages[-1]}"
    return f"{len(paths)} files, {megabytes(sum(state.st_size for state in states))}, {days} days old"


def removed(paths: list[Path]) -> str:
    """Remove them, and say what was freed; one that is in use stays on Windows."""
    freed, count = 0, 0
    for path in paths:
        size = path.stat().st_size
        with contextlib.suppress(OSError):
            path.unlink()
            freed, count = freed + size, count + 1
    left = f"; {len(paths) - count} are in use" if count < len(paths) else ""
    return f"removed {count} files, {megabytes(freed)}{left}"


def megabytes(size: int) -> str:
    """A size for people."""
    return f"{size / 1e6:,.1f} MB"
