"""From sources to one stream of text: joined, or as documents with a mark behind each."""

import re
from collections.abc import Callable, Iterable, Iterator

from yinggem.common.errors import UserError
from yinggem.text.files.compression import OpenedSource, Source
from yinggem.text.files.formats import has_rows, texts
from yinggem.text.marks import END
from yinggem.text.reading import DEFAULT, Reading

MOST_LINE_CHARACTERS = 1 << 24  # of a line in which a pattern is searched for: it is held in memory
CELLS = 1 << 13

Parts = Iterator[str | None]  # pieces of text, None where a document ends


def iter_text(
    sources: Iterable[Source],
    reading: Reading = DEFAULT,
    advance: Callable[[int], None] = lambda _: None,
    on_empty: Callable[[], None] = lambda: None,
) -> Iterator[str]:
    """The text of all sources, in pieces of any length; `marks.END` is a piece of its own behind every document.

    Where there are no documents, a source or row that does not end with a line end gets one if another follows.
    Documents lose the blank lines before them and the white space behind; those that are empty then are left out.

    Args:
        advance: told how many bytes of the files were read.
        on_empty: called for every file or row that is an empty document.

    Raises:
        UserError: a file cannot be read, or is not what its suffix says; rows are wanted, and no file has any.
    """
    if reading.has_documents:
        return _with_ends(_parts(sources, reading, advance), on_empty if reading.documents != "blank" else lambda: None)
    return _joined(sources, reading, advance)


def _joined(sources: Iterable[Source], reading: Reading, advance: Callable[[int], None]) -> Iterator[str]:
    last = ""
    for source in sources:
        rows = has_rows(source)
        for number, text in enumerate(texts(OpenedSource(source, advance), reading)):
            if not text:
                continue
            if (rows or number == 0) and last not in ("", "\n"):
                yield "\n"
            yield text
            last = text[-1]


def _parts(sources: Iterable[Source], reading: Reading, advance: Callable[[int], None]) -> Parts:
    """The pieces of all documents; a document never goes on in another file or row, except in "files"."""
    any_rows = False
    for source in sources:
        file, rows = OpenedSource(source, advance), has_rows(source)
        any_rows |= rows
        if reading.has_pairs and not rows:
            raise UserError(f"{file.name} has no rows; data.format=pairs reads .jsonl, .csv and .parquet files.")
        whole = not rows or reading.documents == "files"
        for unit in [texts(file, reading)] if whole else ([row] for row in texts(file, reading)):
            if reading.documents == "blank":
                yield from _cut_at_blank_lines(unit)
            elif reading.documents == "pattern":
                yield from _cut_at(re.compile(reading.separator or ""), unit, file.name)
            elif rows and reading.documents == "files":
                yield from (piece for row in unit for piece in (row, "" if row.endswith("\n") else "\n"))
            else:
                yield from unit
            yield None
    if reading.needs_rows and not any_rows:
        raise UserError(
            "data.documents=rows is for .jsonl, .csv and .parquet files, and data.path names none; "
            "use data.documents=files, blank or pattern."
        )


def _with_ends(parts: Parts, on_empty: Callable[[], None]) -> Iterator[str]:
    """Trimmed documents, `END` behind each."""
    held, begun = "", False  # white space that may be the last of the document; whether anything else came
    for part in parts:
        if part is None:
            if begun:
                yield END
            else:
                on_empty()
            held, begun = "", False
            continue
        text = held + part
        kept = text.rstrip()
        held = text[len(kept) :]
        if kept and not begun:
            indented = len(kept) - len(kept.lstrip())
            kept, begun = kept[kept.rfind("\n", 0, indented) + 1 :], True
        if kept:
            yield kept


def _cut_at_blank_lines(pieces: Iterable[str]) -> Parts:
    """None in place of every line of white space."""
    is_start = True  # of a line: the end of a long one may be white space as well
    for line in _lines(pieces, whole=False):
        yield None if is_start and line.isspace() and line[-1] == "\n" else line
        is_start = line[-1] == "\n"


def _cut_at(separator: re.Pattern[str], pieces: Iterable[str], name: str) -> Parts:
    """None in place of every match; a match of nothing only cuts."""
    for line in _lines(pieces, whole=True):
        if len(line) > MOST_LINE_CHARACTERS:
            raise UserError(f"{name} has a line of over {MOST_LINE_CHARACTERS >> 20} million characters; break it up.")
        place, content = 0, line.removesuffix("\n")
        for match in separator.finditer(content):
            yield content[place : match.start()]
            yield None
            place = match.end()
        yield line[place:]


def _lines(pieces: Iterable[str], whole: bool) -> Iterator[str]:
    """Lines with their ends; unless they are wanted whole, long ones in several parts."""
    rest = ""
    for piece in pieces:
        rest += piece
        if "\n" not in piece and (len(rest) <= MOST_LINE_CHARACTERS if whole else rest.isspace()):
            continue
        *lines, rest = rest.split("\n")
        yield from (f"{line}\n" for line in lines)
        if (rest and not whole and not rest.isspace()) or len(rest) > MOST_LINE_CHARACTERS:
            yield rest
            rest = ""
    if rest:
        yield rest


class Borders:
    """Where documents end in a text of any length, as far as it matters for a cut.

    The text is thought of in at most CELLS equal cells, of which the first and the last border are kept. So a border is
    found that is at most a cell, 1/4096 of the text, further from a place than the nearest.
    """

    def __init__(self) -> None:
        self.count, self.last, self._size = 0, 0, 1
        self._kept: dict[int, tuple[int, int]] = {}  # cell -> first and last border in it

    def add(self, position: int) -> None:
        """A document ends before this character; positions come in order."""
        self.count, self.last = self.count + 1, position
        while position // self._size >= CELLS:
            self._size *= 2
            merged: dict[int, tuple[int, int]] = {}
            for cell, (first, last) in self._kept.items():
                merged[cell // 2] = (merged.get(cell // 2, (first, 0))[0], last)
            self._kept = merged
        cell = position // self._size
        self._kept[cell] = (self._kept.get(cell, (position, 0))[0], position)

    def positions(self) -> list[int]:
        """Those that are kept, in order."""
        return sorted({position for both in self._kept.values() for position in both})
