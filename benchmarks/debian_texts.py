"""The texts of docs/own_text.md that are not Shakespeare, from Debian: licences and fortunes of several languages.

    python benchmarks/debian_texts.py FOLDER

Writes FOLDER/licences.txt from /usr/share/common-licenses, and for every language FOLDER/LANGUAGE.txt from its package
of fortunes, which `apt-get download` fetches (nothing is installed). Fortunes are shuffled by seed 0, for the package
has them by topic: a slice of so many KB, and its last tenth, are then of the same kind.
"""

import random
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

LICENCES = ("Apache-2.0", "GPL-2", "GPL-3", "LGPL-2.1", "MPL-2.0")
PACKAGES = {"fortunes": "fortunes", "german": "fortunes-de", "chinese": "fortunes-zh", "russian": "fortunes-ru"}
COLOURS = re.compile("\x1b\\[[0-9;]*m")


def licences(names: tuple[str, ...] = LICENCES) -> str:
    """Licences, joined: 108 KB."""
    return "".join(Path("/usr/share/common-licenses", name).read_text() for name in names)


def fortunes(package: str) -> str:
    """Every fortune of a package once, shuffled, with a blank line between two."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["apt-get", "-qq", "download", package], cwd=folder, check=True, capture_output=True)
        (archive,) = Path(folder).glob("*.deb")
        subprocess.run(["dpkg-deb", "-x", archive, folder], check=True)
        found = sorted({one for path in texts(Path(folder)) for one in path.read_text().split("\n%\n") if one.strip()})
    random.Random(0).shuffle(found)
    return "\n\n".join(COLOURS.sub("", one).strip("\n") for one in found) + "\n"


def texts(folder: Path) -> Iterator[Path]:
    """The files of fortunes below a folder, without their indices and without drawings."""
    for path in sorted(folder.glob("usr/share/games/fortunes/**/*")):
        if path.is_file() and not path.is_symlink() and path.suffix != ".dat" and "ascii" not in path.name:
            yield path


def main() -> None:
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    found = {"licences": licences(), **{name: fortunes(package) for name, package in PACKAGES.items()}}
    for name, text in found.items():
        (folder / f"{name}.txt").write_text(text)
        print(f"{folder / name}.txt: {len(text.encode()):,} bytes, {len(set(text)):,} different characters")


if __name__ == "__main__":
    main()
