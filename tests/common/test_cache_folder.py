"""The cache folder: where it is, and what several processes make in it once."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from yinggem.common import cache_folder
from yinggem.common.errors import UserError


def test_the_cache_folder_is_where_the_environment_says(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("YINGGEM_CACHE", str(tmp_path / "own"))
    assert cache_folder.default_cache_dir() == tmp_path / "own"
    monkeypatch.delenv("YINGGEM_CACHE")
    assert cache_folder.default_cache_dir() == tmp_path / "xdg" / "yinggem"
    assert os.name == "nt" or stat.S_IMODE((tmp_path / "xdg" / "yinggem").stat().st_mode) == 0o700


def test_a_cache_folder_that_cannot_be_written_has_a_temporary_one_in_its_place(tmp_path, monkeypatch, caplog):
    (tmp_path / "file").touch()
    monkeypatch.setenv("YINGGEM_CACHE", str(tmp_path / "file" / "below"))
    monkeypatch.setattr(cache_folder.tempfile, "gettempdir", lambda: str(tmp_path / "temporary"))
    found = cache_folder.default_cache_dir()
    assert found.parent == tmp_path / "temporary" and found.is_dir()
    assert cache_folder.default_cache_dir() == found
    assert caplog.text.count(str(tmp_path / "file" / "below")) == 1  # to be told once is enough
    with pytest.raises(UserError, match="choose another"):
        cache_folder.usable_folder(tmp_path / "file" / "below")


def test_one_process_builds_and_the_others_wait_for_it(tmp_path):
    """Four processes want the same file; it is built once, and all read it whole."""
    code = """
import sys, time
from pathlib import Path
from yinggem.common.cache_folder import cached_file
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

    assert cache_folder.cached_file(path, lambda file: file.write(b"good"), verified) == b"good"
    path.unlink()
    with pytest.raises(UserError, match="check the disk"):
        cache_folder.cached_file(path, lambda file: file.write(b"bad"), verified)


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="files have no owners here")
def test_a_private_file_is_for_its_user_alone_and_believed_by_nobody_else(tmp_path, monkeypatch, caplog):
    path, made = tmp_path / f"{'0' * 64}.kind", []

    def read(path: Path) -> bytes | None:
        return path.read_bytes() if path.exists() else None

    def content() -> bytes:
        return cache_folder.private_file(path, lambda file: made.append(file.write(b"good")), read, 9)

    assert content() == content() == b"good" and len(made) == 1 and path.stat().st_mode & 0o777 == 0o600
    own = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: own + 1)
    assert content() == b"good" and len(made) == 2 and "another user's" in caplog.text


def test_leftovers_of_killed_writers_are_removed_and_those_of_living_ones_stay(tmp_path):
    ours, theirs = tmp_path / ".a.bin.1-00.partial", tmp_path / ".b.bin.2-00.partial"
    for partial in (ours, theirs):
        partial.touch()
    with cache_folder.locked(tmp_path / "a.bin"), cache_folder.locked(tmp_path / "b.bin"):
        cache_folder.remove_leftovers(tmp_path / "a.bin")
        assert not ours.exists() and theirs.exists()
    with cache_folder.locked(tmp_path / "a.bin"):
        cache_folder.remove_leftovers(tmp_path / "a.bin")
        assert not theirs.exists()
