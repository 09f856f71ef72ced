"""Formats: every one in every compression holds the same text; what is damaged or foreign is one sentence."""

import bz2
import csv
import gzip
import io
import json
import lzma
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from yinggem.common.errors import UserError
from yinggem.text import documents
from yinggem.text.corpus import open_corpus
from yinggem.text.files import formats
from yinggem.text.reading import Reading

ROWS = ["Shall I compare thee\nto a summer's day?", 'naïve, "quoted" 🙂', "", "last"]
JOINED = "\n".join(row for row in ROWS if row)


def packed(content: bytes, suffix: str) -> bytes:
    if suffix == ".zst":
        return bytes(pytest.importorskip("zstandard").ZstdCompressor().compress(content))
    compress: dict[str, Callable[[bytes], bytes]]
    compress = {"": bytes, ".gz": gzip.compress, ".xz": lzma.compress, ".bz2": bz2.compress}
    return compress[suffix](content)


def json_lines(rows: list[object], field: str = "text") -> bytes:
    return "".join(json.dumps({"number": 1, field: row}) + "\n" for row in rows).encode()


def comma_separated(rows: list[str]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerows([["number", "text"], *([1, row] for row in rows)])
    return text.getvalue().encode()


def parquet(rows: list[object], field: str = "text") -> bytes:
    writer, file = pytest.importorskip("pyarrow.parquet"), io.BytesIO()
    table = pytest.importorskip("pyarrow").table({"number": [1] * len(rows), field: rows})
    writer.write_table(table, file, row_group_size=2)
    return file.getvalue()


MAKE: dict[str, Callable[..., bytes]] = {".jsonl": json_lines, ".csv": comma_separated, ".parquet": parquet}


def read(path: Path, **reading: str) -> str:
    return "".join(open_corpus("text", path, path.parent / "cache", Reading(**reading)).iter_text())


@pytest.mark.parametrize("compression", ["", ".gz", ".xz", ".bz2", ".zst"])
@pytest.mark.parametrize("suffix", [".txt", ".md", *MAKE])
def test_every_format_in_every_compression_holds_the_text(tmp_path, suffix, compression):
    content = MAKE[suffix](ROWS) if suffix in MAKE else JOINED.encode()
    path = tmp_path / f"poems{suffix.upper()}{compression}"
    path.write_bytes(packed(content, compression))
    assert read(path) == JOINED
    assert read(tmp_path) == JOINED  # a folder is searched for it
    assert read(tmp_path / "*oems.*") == JOINED


def test_a_folder_of_all_of_them_is_read_in_the_order_of_names(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(json_lines(["one", "two\n"]))
    (tmp_path / "b.md.gz").write_bytes(gzip.compress(b"three"))
    (tmp_path / "c.csv.xz").write_bytes(lzma.compress(comma_separated(["four"])))
    (tmp_path / "d.txt").write_bytes(b"five\n")
    (tmp_path / "e.rst").write_bytes(b"not this")
    (tmp_path / "f.tar.gz").write_bytes(b"nor this")
    assert read(tmp_path) == "one\ntwo\nthree\nfour\nfive\n"


def test_several_frames_and_members_are_one_text(tmp_path):
    for suffix in (".gz", ".xz", ".bz2", ".zst"):
        (tmp_path / f"a.txt{suffix}").write_bytes(packed(b"one ", suffix) + packed(b"two\n", suffix))
    assert read(tmp_path) == "one two\n" * 4


def test_another_column_is_named_by_its_field(tmp_path):
    for name, content in (("a.jsonl", json_lines(["x"], "poem")), ("b.parquet", parquet(["x"], "poem"))):
        (tmp_path / name).write_bytes(content)
        assert read(tmp_path / name, field="poem") == "x"
        with pytest.raises(UserError, match=rf"Row 1 of .*{name} has no field 'text', but .*poem; set data\.field"):
            read(tmp_path / name)


def test_pairs_have_fields_of_their_own(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b'{"prompt": "a", "completion": 7}\n')
    with pytest.raises(UserError, match="in the field 'completion'; make it a text"):
        read(tmp_path / "a.jsonl", format="pairs")
    with pytest.raises(UserError, match=r"reads the fields prompt and completion; leave out data\.field"):
        read(tmp_path / "a.jsonl", format="pairs", field="answer")


BAD = {
    "cut.txt.gz": (packed(b"x" * 5000 + bytes(range(256)), ".gz")[:-9], "damaged, or not a .gz file"),
    "cut.txt.xz": (packed(b"x" * 5000, ".xz")[:-9], "damaged, or not a .xz file"),
    "cut.txt.bz2": (packed(b"x" * 5000, ".bz2")[:-9], "damaged, or not a .bz2 file"),
    "text.txt.gz": (b"plain text", "damaged, or not a .gz file"),
    "text.txt.zst": (b"plain text", "damaged, or not a .zst file"),
    "text.parquet": (b"plain text", "cannot be read as Parquet"),
    "empty.parquet": (b"", "cannot be read as Parquet"),
    "a.jsonl": (b'{"text": "a"}\n{"text": \n', "Line 2 of .* is not JSON"),
    "b.jsonl": (b'{"text": "a"}\n["b"]\n', "Line 2 of .* is no JSON object"),
    "c.jsonl": (json_lines(["a", 7]), "Row 2 of .* holds int '7', not text"),
    "d.jsonl": (b'{"text": "\\ud800"}\n', "Row 1 of .* half a character"),
    "e.jsonl": (b"[" * 100_000, "Line 1 of .* is not JSON"),
    "f.jsonl": (json_lines(["a", None]), "Row 2 of .* is empty in the field 'text'"),
    "a.csv": (b"number,poem\n1,x\n", "Row 1 of .* has no field 'text', but number, poem"),
    "b.csv": (b'text\n"a" b\n', "Line 2 of .* is not CSV"),
    "c.csv": (b"text\n\xff\n", "is not UTF-8 at byte offset 5; it looks like cp1252"),
    "d.csv": (b"number,text\n7\n", "Row 1 of .* is empty in the field 'text'"),
    "e.csv": (b"number;text\n7;a\n", "no field 'text', but number;text; separate its columns by commas"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_damaged_or_foreign_is_one_sentence(tmp_path, name):
    content, sentence = BAD[name]
    if name.endswith((".parquet", ".zst")):
        pytest.importorskip("pyarrow" if name.endswith(".parquet") else "zstandard")
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=sentence) as caught:
        read(tmp_path / name)
    assert name in str(caught.value)


def test_a_cut_zst_file_is_no_shorter_text(tmp_path):
    noise = np.random.default_rng(0).integers(97, 123, 50_000, np.uint8).tobytes()
    content = packed(noise, ".zst")
    for length in (len(content) - 3, len(content) // 2, 5000):
        (tmp_path / "a.txt.zst").write_bytes(content[:length])
        with pytest.raises(UserError, match=r"damaged, or not a \.zst file"):
            read(tmp_path / "a.txt.zst")


def test_a_parquet_of_numbers(tmp_path):
    (tmp_path / "a.parquet").write_bytes(parquet([1.5, 2.5], "price"))
    with pytest.raises(UserError, match=r"has no field 'text', but number, price; set data\.field"):
        read(tmp_path / "a.parquet")
    with pytest.raises(UserError, match=r"holds float '1\.5', not text"):
        read(tmp_path / "a.parquet", field="price")


@pytest.mark.parametrize(("name", "module"), [("a.parquet", "pyarrow.parquet"), ("a.txt.zst", "zstandard")])
def test_a_package_that_is_missing_is_named(tmp_path, monkeypatch, name, module):
    if name.endswith(".zst") and sys.version_info >= (3, 14):
        pytest.skip("comes with Python")
    monkeypatch.setitem(sys.modules, module, None)
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(UserError, match=f"pip install {module.partition('.')[0]}"):
        read(tmp_path / name)


def test_a_line_without_end_is_refused_where_lines_are_rows_and_read_where_they_are_text(tmp_path, monkeypatch):
    monkeypatch.setattr(formats, "MOST_CHARACTERS", 1 << 21)
    monkeypatch.setattr(documents, "MOST_LINE_CHARACTERS", 1 << 21)
    line = b"x" * ((1 << 21) + 5)
    for name in ("a.jsonl", "a.csv", "a.txt"):
        (tmp_path / name).write_bytes(line)
    for name in ("a.jsonl", "a.csv"):
        with pytest.raises(UserError, match="has a line of more than 2 million characters"):
            read(tmp_path / name)
    for how in ({}, {"documents": "files"}, {"documents": "blank"}):
        assert len(read(tmp_path / "a.txt", **how).rstrip("\ud800")) == len(line)
    with pytest.raises(UserError, match=r"a\.txt has a line of over 2 million characters"):
        read(tmp_path / "a.txt", documents="pattern", separator="y")
