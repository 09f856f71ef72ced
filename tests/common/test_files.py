"""Files written whole or not at all, the cache folder, patterns."""

import os
import stat
import subprocess
import sys
from pathlib import Path

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
    "write", [lambda path: files.write_atomically(path, b"x"), lambda path: files.append(path, "x")]
)
def test_what_the_system_refuses_is_one_sentence_with_the_path(tmp_path, write):
    (tmp_path / "file").touch()
    for place in (tmp_path / "missing" / "a", tmp_path / "file" / "a", tmp_path):
        with pytest.raises(UserError, match="Cannot write") as caught:
            write(place)
        assert str(place) in str(caught.value)


def test_text_is_appended_as_it_is_whatever_it_holds(tmp_path):
    for text in ("a\r\n", "é🙂\n", os.fsdecode(b"\xff")):
        files.append(tmp_path / "a.txt", text)
    assert (tmp_path / "a.txt").read_bytes() == "a\r\né🙂\n".encode() + b"\xff"


def test_matches_are_sorted_without_hidden_ones(tmp_path):
    for name in ("b/x.txt", "a/y.txt", "a/.z.txt", ".c/x.txt", "a/y.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert files.matches(tmp_path, "*/*.txt") == [tmp_path / "a/y.txt", tmp_path / "b/x.txt"]
    assert files.matches(tmp_path / "nowhere", "*") == []


def test_the_cache_folder_is_where_the_environment_says(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("YINGGEM_CACHE", str(tmp_path / "own"))
    assert files.default_cache_dir() == tmp_path / "own"
    monkeypatch.delenv("YINGGEM_CACHE")
    assert files.default_cache_dir() == tmp_path / "xdg" / "yinggem"
    assert os.name == "nt" or stat.S_IMODE((tmp_path / "xdg" / "yinggem").stat().st_mode) == 0o700


def test_a_cache_folder_that_cannot_be_written_has_a_temporary_one_in_its_place(tmp_path, monkeypatch, caplog):
    (tmp_path / "file").touch()
    monkeypatch.setenv("YINGGEM_CACHE", str(tmp_path / "file" / "below"))
    monkeypatch.setattr(files.tempfile, "gettempdir", lambda: str(tmp_path / "temporary"))
    found = files.default_cache_dir()
    assert found.parent == tmp_path / "temporary" and found.is_dir()
    assert str(tmp_path / "file" / "below") in caplog.text
    with pytest.raises(UserError, match="choose another"):
        files.usable_folder(tmp_path / "file" / "below")


def test_one_process_builds_and_the_others_wait_for_it(tmp_path):
    """Eight processes want the same file; it is built once, and all read it whole."""
    code = """
import sys, time
from pathlib import Path
from yinggem.common.files import cached_file
path = Path(sys.argv[1])
def build(file):
    print("built")
    for _ in range(20):
        file.write(b"x" * 1000)
        time.sleep(0.01)
def verified(path):
    return len(path.read_bytes()) if path.exists() else None
print(cached_file(path, build, verified))
"""
    command = [sys.executable, "-c", code, str(tmp_path / "wanted.bin")]
    root = Path(__file__).parents[2]
    processes = [subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    told = "".join(process.communicate()[0] for process in processes)
    assert told.count("built") == 1 and told.count("20000") == 4


def test_a_damaged_file_is_made_again_and_one_that_stays_damaged_is_an_error(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(b"damaged")

    def verified(path):
        return path.read_bytes() if path.exists() and path.read_bytes() == b"good" else None

    assert files.cached_file(path, lambda file: file.write(b"good"), verified) == b"good"
    path.unlink()
    with pytest.raises(UserError, match="check the disk"):
        files.cached_file(path, lambda file: file.write(b"bad"), verified)


def test_leftovers_of_killed_writers_are_removed_and_those_of_living_ones_stay(tmp_path):
    ours, theirs = tmp_path / ".a.bin.1-00.partial", tmp_path / ".b.bin.2-00.partial"
    for partial in (ours, theirs):
        partial.touch()
    with files.locked(tmp_path / "a.bin"), files.locked(tmp_path / "b.bin"):
        files.remove_leftovers(tmp_path / "a.bin")
        assert not ours.exists() and theirs.exists()
    with files.locked(tmp_path / "a.bin"):
        files.remove_leftovers(tmp_path / "a.bin")
        assert not theirs.exists()


def test_cores_are_those_that_may_be_used():
    assert 1 <= files.cores() <= (os.cpu_count() or 1)
    if hasattr(os, "sched_setaffinity"):
        before = os.sched_getaffinity(0)
        try:
            os.sched_setaffinity(0, {min(before)})
            assert files.cores() == 1
        finally:
            os.sched_setaffinity(0, before)
