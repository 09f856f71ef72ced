"""What lies where in a run folder, and which run is the newest."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from yinggem.common.errors import UserError
from yinggem.common.files import write_atomically
from yinggem.runs.layout import find_checkpoint, forget_latest, name_latest, read_latest


def run_folder(outputs: Path, name: str, *files: str) -> Path:
    for file in files:
        (outputs / name / "checkpoints").mkdir(parents=True, exist_ok=True)
        write_atomically(outputs / name / "checkpoints" / file, b"x")
    return outputs / name / "checkpoints"


def test_the_newest_best_checkpoint_is_found(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"train\.py"):
        find_checkpoint(tmp_path / "empty")
    old = run_folder(tmp_path, "2026-01-31/23-59-59", "best.ckpt", "last.ckpt")
    assert find_checkpoint(tmp_path) == old / "best.ckpt"
    new = run_folder(tmp_path, "2026-02-01/00-00-01", "last.ckpt")
    (tmp_path / "2026-02-01/00-00-02").mkdir()  # a run that has just started
    assert find_checkpoint(tmp_path) == new / "last.ckpt"
    (tmp_path / "latest").write_text("2026-01-31/23-59-59\n")
    assert find_checkpoint(tmp_path).samefile(old / "best.ckpt")
    (tmp_path / "latest").write_bytes(b"\xff\0")
    assert find_checkpoint(tmp_path) == new / "last.ckpt"
    (tmp_path / "latest").unlink()
    (tmp_path / "latest").symlink_to(Path("2026-01-31/23-59-59"))
    assert find_checkpoint(tmp_path).samefile(old / "best.ckpt")


def test_a_run_that_is_being_started_beside_it_hides_no_checkpoint(tmp_path):
    """Files come and go in the folder that is looked through."""
    (tmp_path / "2026-01-01/00-00-00/checkpoints").mkdir(parents=True)
    (checkpoint := tmp_path / "2026-01-01/00-00-00/checkpoints/best.ckpt").touch()
    code = f"""import itertools, os
for k in itertools.count():
    os.symlink("2026-01-01/00-00-00", name := f"{tmp_path}/.latest.{{k}}.partial", target_is_directory=True)
    os.unlink(name)"""
    with subprocess.Popen([sys.executable, "-c", code]) as process:
        try:
            assert {find_checkpoint(tmp_path) for _ in range(1000)} == {checkpoint}
        finally:
            process.kill()


def test_latest_is_a_text_file_that_names_the_newest_run(tmp_path):
    for name in ("2026-01-01/00-00-00", "2026-01-01/a folder"):
        (tmp_path / name).mkdir(parents=True)
        name_latest(tmp_path, tmp_path / name)
        assert (tmp_path / "latest").read_text() == f"{name}\n" and not (tmp_path / "latest").is_symlink()
        assert read_latest(tmp_path) == tmp_path / name


def test_a_link_of_an_earlier_version_is_followed_once_and_replaced(tmp_path):
    first, second = (tmp_path / "2026-01-01" / name for name in "12")
    first.mkdir(parents=True)
    second.mkdir()
    os.symlink("2026-01-01/1", tmp_path / "latest", target_is_directory=True)
    assert read_latest(tmp_path) == first
    name_latest(tmp_path, second)
    assert read_latest(tmp_path) == second and (tmp_path / "latest").is_file() and list(first.iterdir()) == []


@pytest.mark.parametrize("what", ["folder", "notes", "several lines", "bytes"])
def test_anything_else_of_that_name_is_ignored_and_kept(tmp_path, what):
    (tmp_path / "2026-01-01/1").mkdir(parents=True)
    content = {"notes": b"my latest ideas", "several lines": b"2026-01-01/1\n2026-01-01/1\n", "bytes": b"\xff\0"}
    if what == "folder":
        (tmp_path / "latest").mkdir()
    else:
        (tmp_path / "latest").write_bytes(content[what])
    name_latest(tmp_path, tmp_path / "2026-01-01/1")
    forget_latest(tmp_path)
    assert read_latest(tmp_path) is None
    assert (tmp_path / "latest").is_dir() if what == "folder" else (tmp_path / "latest").read_bytes() == content[what]


def test_a_run_elsewhere_is_not_named(tmp_path):
    (tmp_path / "outputs").mkdir()
    (tmp_path / "elsewhere").mkdir()
    name_latest(tmp_path / "outputs", tmp_path / "elsewhere")
    assert list((tmp_path / "outputs").iterdir()) == []
