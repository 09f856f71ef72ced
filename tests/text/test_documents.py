"""Documents: where each begins and ends, whatever the files are, and however they are read in blocks."""

import json
import re
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from yinggem.common.errors import UserError
from yinggem.text.corpus import open_corpus
from yinggem.text.documents import CELLS, Borders, iter_text
from yinggem.text.files import compression
from yinggem.text.marks import END, TURN
from yinggem.text.reading import Reading


def write(path: Path, content: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode())
    return path


def rows(path: Path, *objects: object) -> Path:
    return write(path, "".join(json.dumps(one) + "\n" for one in objects))


def found(path: Path, **reading: str) -> list[str]:
    """The documents of a text, and nothing between them."""
    corpus = open_corpus("text", path, path.parent / "cache", Reading(**reading))
    text = "".join(corpus.iter_text())
    assert text.endswith(END) and corpus.documents == text.count(END) and corpus.characters == len(text)
    assert set(corpus.borders) <= {place.end() for place in re.finditer(END, text)}
    return text.split(END)[:-1]


def test_each_file_is_one(tmp_path):
    write(tmp_path / "d" / "b.txt", "\n\n  an indented\n\nfirst line  \n\n")
    write(tmp_path / "d" / "a" / "x.md", "one\r\ntwo")
    write(tmp_path / "d" / "c.txt", " \n\n")
    rows(tmp_path / "d" / "e.jsonl", {"text": "row"}, {"text": "another"})
    assert found(tmp_path / "d", documents="files") == ["one\ntwo", "  an indented\n\nfirst line", "row\nanother"]
    corpus = open_corpus("text", tmp_path / "d", tmp_path / "cache", Reading(documents="files"))
    assert corpus.notes == ["Empty documents are left out: 1 of 4."]


def test_each_row_is_one_and_each_other_file(tmp_path):
    rows(tmp_path / "d" / "a.jsonl", {"text": "one\n\ntwo"}, {"text": ""}, {"text": "three"})
    write(tmp_path / "d" / "b.txt", "four\n\nfour\n")
    assert found(tmp_path / "d", documents="rows") == ["one\n\ntwo", "three", "four\n\nfour"]
    (tmp_path / "d" / "a.jsonl").unlink()
    with pytest.raises(UserError, match=r"data\.documents=rows is for \.jsonl, \.csv and \.parquet"):
        found(tmp_path / "d", documents="rows")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(alphabet="ab \n\t", max_size=60), block=st.integers(1, 9))
def test_blank_lines_stand_between(tmp_path, text, block):
    """As a regular expression over the whole text says, in blocks of any size."""
    expected = [part.rstrip() for part in re.split(r"(?m)^[ \t]*\n", text + "\n")]
    expected = [re.sub(r"\A(\s*\n)*", "", part) for part in expected if part.strip()]
    path = write(tmp_path / "x.txt", text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compression, "BLOCK_BYTES", block)
        assert "".join(iter_text([path], Reading(documents="blank"))).split(END)[:-1] == expected


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    text=st.text(alphabet="ab-\n", max_size=60),
    block=st.integers(1, 9),
    separator=st.sampled_from(["--", "^-+$", "(?=b)"]),
)
def test_a_pattern_stands_between(tmp_path, text, block, separator):
    parts = [""]
    for line in text.splitlines(keepends=True):
        pieces = re.split(separator, line.removesuffix("\n"))
        pieces[-1] += "\n" * line.endswith("\n")
        parts[-1] += pieces[0]
        parts += pieces[1:]
    expected = [re.sub(r"\A(\s*\n)*", "", part.rstrip()) for part in parts if part.strip()]
    path = write(tmp_path / "x.txt", text)
    reading = Reading(documents="pattern", separator=separator)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compression, "BLOCK_BYTES", block)
        assert "".join(iter_text([path], reading)).split(END)[:-1] == expected


def test_a_part_never_goes_on_in_another_file_or_row(tmp_path):
    rows(tmp_path / "d" / "a.jsonl", {"text": "one\n\ntwo"}, {"text": "three"})
    write(tmp_path / "d" / "b.txt", "four\n\nfive")
    write(tmp_path / "d" / "c.txt", "six")
    assert found(tmp_path / "d", documents="blank") == ["one", "two", "three", "four", "five", "six"]


def test_pairs_are_a_prompt_in_its_template_and_a_completion(tmp_path):
    path = rows(tmp_path / "a.jsonl", {"prompt": "1+1", "completion": "2"}, {"prompt": "x", "completion": " "})
    assert found(path, format="pairs") == [f"1+1{TURN}2"]
    assert found(path, format="pairs", template="Q: {prompt}\nA: ") == [f"Q: 1+1\nA: {TURN}2"]
    with pytest.raises(UserError, match=r"Row 1 of .* has no field 'completion', but prompt; rename its column"):
        found(rows(tmp_path / "b.jsonl", {"prompt": "1"}), format="pairs")
    with pytest.raises(UserError, match="holds no completion"):
        found(rows(tmp_path / "c.jsonl", {"prompt": "1", "completion": ""}), format="pairs")
    with pytest.raises(UserError, match=r"x\.txt has no rows; data\.format=pairs reads"):
        found(write(tmp_path / "x.txt", "text"), format="pairs")


def test_a_text_without_documents_is_read_as_ever(tmp_path):
    path = write(tmp_path / "x.txt", "\n\n one \n\n\n")
    assert "".join(iter_text([path])) == "\n\n one \n\n\n"


def test_nothing_but_empty_documents_is_an_empty_text(tmp_path):
    with pytest.raises(UserError, match="is empty"):
        found(write(tmp_path / "x.txt", " \n\n "), documents="files")


@pytest.mark.parametrize(
    ("settings_", "sentence"),
    [
        ({"documents": "poems"}, r"data\.documents must be files, blank, pattern, rows or null"),
        ({"documents": 7}, r"data\.documents must be"),
        ({"documents": "pattern"}, r"data\.separator=REGEX belong together"),
        ({"separator": "x"}, r"data\.separator=REGEX belong together"),
        ({"documents": "pattern", "separator": "("}, "not a regular expression"),
        ({"documents": "pattern", "separator": "a\nb"}, "line by line"),
        ({"documents": "pattern", "separator": r"\n\n"}, "line by line"),
        ({"format": "json"}, r"data\.format must be pairs or null"),
        ({"format": "pairs", "documents": "files"}, "every row a document"),
        ({"field": ""}, r"data\.field"),
        ({"template": "no place"}, r"data\.template must hold \{prompt\} once"),
        ({"template": "{prompt}{prompt}"}, r"data\.template must hold"),
        ({"template": None}, r"data\.template must hold"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings_, sentence):
    with pytest.raises(UserError, match=sentence):
        Reading(**settings_)


@pytest.mark.parametrize("values", [None, [], {"documents": 7}, {"new": "x"}, {"documents": "poems"}])
def test_a_damaged_record_is_refused(values):
    with pytest.raises(UserError):
        Reading.from_dict(values)


@settings(max_examples=30, deadline=None)
@given(sizes=st.lists(st.integers(1, 2000), min_size=1, max_size=300), scale=st.sampled_from([1, 100, 10_000]))
def test_borders_that_are_kept_are_near_to_any_place(sizes, scale):
    borders, places, position = Borders(), [], 0
    for size in sizes:
        position += size * scale
        borders.add(position)
        places.append(position)
    kept = borders.positions()
    assert set(kept) <= set(places) and kept[-1] == position and borders.count == len(sizes)
    for wanted in range(0, position, max(1, position // 50)):
        best, ours = (min(abs(place - wanted) for place in some) for some in (places, kept))
        assert ours - best <= position * 2 / CELLS
    assert len(kept) <= 2 * CELLS
