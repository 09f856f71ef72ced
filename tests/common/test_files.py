"""Files written whole or not at all, appended to, found by patterns."""

import os

import pytest

from yinggem.common import files
from yinggem.common.errors import UserError


@pytest.mark.parametrize("content", [b"new", lambda file: file.write(b"new")], ids=["bytes", "function"])
def test_a_file_holds_the_old_content_or_the_new(tmp_path, content):
    path = tmp_path / "a file.txt"
    for before in (None, b"old and longer"):
        if before is not None:
            path.write_bytes(before)
        files.write_atomically(path, content)
        assert path.read_bytes() == b"new" and [entry.name for entry in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("error", [RuntimeError("half way"), KeyboardInterrupt()])
def test_a_writer_that_fails_leaves_what_was_there(tmp_path, error):
    path = tmp_path / "a.txt"
    path.write_bytes(b"old")

    def write(file):
        file.write(b"ne")
        raise error

    with pytest.raises(type(error)):
        files.write_atomically(path, write)
    assert path.read_bytes() == b"old" and [entry.name for entry in tmp_path.iterdir()] == ["a.txt"]


@pytest.mark.parametrize(
    "write", [lambda path: files.write_atomically(path, b"x"), lambda path: files.append_text(path, "x")]
)
def test_what_the_system_refuses_is_one_sentence_with_the_path(tmp_path, write):
    (tmp_path / "file").touch()
    for place in (tmp_path / "missing" / "a", tmp_path / "file" / "a", tmp_path):
        with pytest.raises(UserError, match="Cannot write") as caught:
            write(place)
        assert str(place) in str(caught.value)
        assert ("make its folder first" in str(caught.value)) == (place.parent.name == "missing")


def test_text_is_appended_as_it_is_whatever_it_holds(tmp_path):
    for text in ("a\r\n", "é🙂\n", os.fsdecode(b"\xff")):
        files.append_text(tmp_path / "a.txt", text)
    assert (tmp_path / "a.txt").read_bytes() == "a\r\né🙂\n".encode() + b"\xff"


def test_paths_are_sorted_without_hidden_ones(tmp_path):
    for name in ("b/x.txt", "a/y.txt", "a/.z.txt", ".c/x.txt", "a/y.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert files.find_paths(tmp_path, "*/*.txt") == [tmp_path / "a/y.txt", tmp_path / "b/x.txt"]
    assert files.find_paths(tmp_path / "nowhere", "*") == []
