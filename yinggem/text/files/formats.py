"""File formats: how a file becomes text, by its suffix. Another format is another entry of READERS or ROW_READERS."""

import csv
import importlib
import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from yinggem.common.errors import UserError
from yinggem.text.files.charset import decoded_text
from yinggem.text.files.compression import COMPRESSIONS, OpenedSource, Source, inner_suffix
from yinggem.text.marks import PLACE, TURN
from yinggem.text.reading import Reading

PAIR = ("prompt", "completion")  # the columns of data.format=pairs
MOST_CHARACTERS = 1 << 26  # of a row: it is held in memory

Reader = Callable[[Iterable[bytes], str, str], Iterator[str]]  # blocks of a file, name, encoding -> pieces of its text
Row = dict[str, Any]  # the values of a row by the names of their columns
RowReader = Callable[[OpenedSource, Reading], Iterator[Row]]


def read_plain_text(blocks: Iterable[bytes], name: str, encoding: str = "utf-8") -> Iterator[str]:
    """The text as it is."""
    return decoded_text(blocks, name, encoding)


def read_json_lines(file: OpenedSource, reading: Reading) -> Iterator[Row]:
    """An object on every line."""
    for number, line in enumerate(_lines(file, reading.encoding), 1):
        if line.isspace():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            what = getattr(error, "msg", "nested too deeply")
            raise UserError(f"Line {number} of {file.name} is not JSON ({what}); correct it.") from None
        if not isinstance(row, dict):
            raise UserError(f"Line {number} of {file.name} is no JSON object; every line must be one.")
        yield row


def read_csv(file: OpenedSource, reading: Reading) -> Iterator[Row]:
    """Rows below a line with the names of the columns."""
    reader = csv.DictReader(_lines(file, reading.encoding), strict=True)
    try:
        while (row := _next_row(reader)) is not None:
            yield row
    except csv.Error as error:
        raise UserError(f"Line {reader.reader.line_num} of {file.name} is not CSV ({error}); correct it.") from None


def _next_row(reader: "csv.DictReader[str]") -> Row | None:
    """The next row, whose cells may be long; the limit is the whole process's, and others rely on theirs."""
    usual = csv.field_size_limit(MOST_CHARACTERS)
    try:
        return next(reader, None)
    finally:
        csv.field_size_limit(usual)


def read_parquet(file: OpenedSource, reading: Reading) -> Iterator[Row]:
    """The rows of a Parquet file, a few at a time."""
    try:
        parquet = importlib.import_module("pyarrow.parquet")
    except ImportError:
        raise UserError("Reading .parquet files needs a package: pip install pyarrow.") from None
    wanted = _columns(reading)
    with file.seekable() as content:
        try:
            table = parquet.ParquetFile(content)
            columns = [name for name in wanted if name in table.schema_arrow.names]
            for batch in table.iter_batches(batch_size=256, columns=columns):
                yield from batch.to_pylist() if columns else (dict.fromkeys(table.schema_arrow.names),)
        except (OSError, ValueError, NotImplementedError) as error:  # pyarrow's own are ValueErrors and OSErrors
            if isinstance(error, UserError):
                raise
            what = str(error).partition("\n")[0][:200]
            raise UserError(f"{file.name} cannot be read as Parquet ({what}); make or fetch it again.") from None


READERS: dict[str, Reader] = {".txt": read_plain_text, ".md": read_plain_text}  # whose files are text
ROW_READERS: dict[str, RowReader] = {".jsonl": read_json_lines, ".csv": read_csv, ".parquet": read_parquet}


def suffixes() -> list[str]:
    """The suffixes that a folder is searched for; each may be followed by one of COMPRESSIONS."""
    return [*READERS, *ROW_READERS]


def named_suffixes() -> str:
    """They as a user reads them."""
    *first, last = suffixes()
    return f"{', '.join(first)} or {last}"


def has_rows(source: Source) -> bool:
    """Whether a source is read row by row."""
    return not isinstance(source, bytes) and inner_suffix(source) in ROW_READERS


def texts(file: OpenedSource, reading: Reading) -> Iterator[str]:
    """The text of a source: its rows, or pieces of any length.

    A file whose suffix is in neither table was named by the user, and is read as plain text.

    Raises:
        UserError: it cannot be read, or is not what its suffix says.
    """
    if not has_rows(file.source):
        suffix = ".txt" if isinstance(file.source, bytes) else inner_suffix(file.source)
        encoding = "utf-8" if isinstance(file.source, bytes) else reading.encoding
        yield from READERS.get(suffix, read_plain_text)(file.blocks(), file.name, encoding)
        return
    assert not isinstance(file.source, bytes)
    rows, columns = ROW_READERS[inner_suffix(file.source)](file, reading), _columns(reading)
    for number, row in enumerate(rows, 1):
        values = [_value(row, column, number, file.name) for column in columns]
        if len(values) == 1:
            yield values[0]
        else:  # a pair without a completion is an empty document
            prompt, completion = values
            yield reading.template.replace(PLACE, prompt) + TURN + completion if completion.strip() else ""


def _columns(reading: Reading) -> tuple[str, ...]:
    return PAIR if reading.has_pairs else (reading.field,)


def _value(row: Row, column: str, number: int, name: str) -> str:
    """The text in a column of a row."""
    if column not in row:
        there = ", ".join(str(key) for key in row if key is not None)[:80] or "nothing"
        remedy = "rename its column" if column in PAIR else "set data.field"
        if len(row) == 1 and (";" in there or "\t" in there):
            remedy = "separate its columns by commas"
        raise UserError(f"Row {number} of {name} has no field {column!r}, but {there}; {remedy}.")
    value = row[column]
    if not isinstance(value, str):
        kind = "is empty" if value is None else f"holds {type(value).__name__} {str(value)[:40]!r}, not text,"
        remedy = "make it a text" if column in PAIR else "choose another with data.field"
        raise UserError(f"Row {number} of {name} {kind} in the field {column!r}; {remedy}.")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise UserError(f"Row {number} of {name} holds half a character (a lone surrogate); remove it.") from None
    return value.replace("\r\n", "\n").replace("\r", "\n") if "\r" in value else value


def _lines(file: OpenedSource, encoding: str) -> Iterator[str]:
    """Lines with their ends."""
    rest = ""
    for text in decoded_text(file.blocks(), file.name, encoding):
        *lines, rest = (rest + text).split("\n")
        if len(rest) > MOST_CHARACTERS:
            raise UserError(
                f"{file.name} has a line of more than {MOST_CHARACTERS >> 20} million characters; "
                "put every row on a line of its own."
            )
        yield from (f"{line}\n" for line in lines)
    if rest:
        yield rest


def is_searched(name: str) -> bool:
    """Whether a file of this name in a folder is text, by its suffix."""
    stem, _, suffix = name.lower().rpartition(".")
    if f".{suffix}" in COMPRESSIONS:
        suffix = stem.rpartition(".")[2] if "." in stem else ""
    return f".{suffix}" in READERS or f".{suffix}" in ROW_READERS
