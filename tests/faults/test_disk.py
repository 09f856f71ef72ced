"""The disk fills, the folder becomes read-only, the data vanish while a run is under way."""

import random
import resource
import shutil
import subprocess
from contextlib import ExitStack

import pytest
from harness import Place, differences
from running import sized, soaked

from yinggem.inference.checkpoint import read_checkpoint

pytestmark = pytest.mark.slow


@pytest.fixture
def small_disk(tmp_path, straight):
    """A place whose runs are on a file system of their own; skipped where mounting is not allowed."""
    place = Place(tmp_path, straight[0])
    place.outputs.mkdir()
    with ExitStack() as stack:
        mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "none", str(place.outputs)]
        if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
            pytest.skip("mounting is not allowed here")
        stack.callback(subprocess.run, ["umount", "-l", str(place.outputs)])
        yield place


def assert_ended_well(place: Place, process, reason: str) -> None:
    assert process.wait() == 2 and process.sentence(), process.told()
    assert reason in process.sentence() and "Cannot write" in process.sentence(), process.told()
    assert process.told().count(reason) == 1, process.told()  # no second complaint, of TensorBoard's thread or another
    read_checkpoint(place.run_folder() / "checkpoints" / "last.ckpt")
    assert f"ckpt_path={place.run_folder()}/checkpoints/last.ckpt" in process.sentence(), process.told()


def test_a_disk_that_fills_while_training(small_disk, expected):
    """Whoever writes next meets it; with room again, the run is continued to the same end, several times."""
    place, process = small_disk, None
    for turn in sized([3], range(4)):
        process = place.resume() if turn else place.start(*place.arguments())
        place.wait_for_checkpoint(process)
        assert process.hit(("step", "validation")[turn % 2], 0, random.Random(turn))  # signal 0: just wait for it
        filler = place.outputs / "filler"
        with open(filler, "wb", buffering=0) as file:  # a buffer would be written, and refused, when it is closed
            with pytest.raises(OSError):
                while True:
                    file.write(b"x" * (1 << 16))
            if turn > 1:
                file.truncate(file.tell() - (1 << 13))  # some room is left, and what is written is cut in the middle
        assert_ended_well(place, process, "No space left on device")
        filler.unlink()
    assert place.resume().wait() == 0
    assert differences(expected, place.run_folder()) == []


def test_a_folder_that_becomes_read_only(small_disk, expected):
    process = small_disk.start(*small_disk.arguments())
    small_disk.wait_for_checkpoint(process)
    # a file system with open files refuses to become read-only: a bind mount over the run hides it all the same
    run = str(small_disk.run_folder())
    subprocess.run(["mount", "--bind", run, run], check=True)
    try:
        while subprocess.run(["mount", "-o", "remount,bind,ro", run]).returncode:
            assert process.status is None, process.told()  # busy: a file is being written in it at this moment
        assert_ended_well(small_disk, process, "Read-only file system")
    finally:
        subprocess.run(["umount", "-l", run], check=True)
    assert small_disk.resume().wait() == 0
    assert differences(expected, small_disk.run_folder()) == []


@pytest.mark.parametrize("kilobytes", soaked([3, 20, 100], [20]))
def test_files_may_not_grow(place, kilobytes):
    """A limit on file sizes, where nothing can be mounted: it stops the first record, or checkpoints."""
    limit = (kilobytes << 10, kilobytes << 10)
    process = place.start(*place.arguments(), limits={resource.RLIMIT_FSIZE: limit})
    assert process.wait() == 2 and "File too large" in process.sentence(), process.told()
    for path in place.outputs.rglob("*.ckpt"):
        read_checkpoint(path)


def test_data_that_vanish_do_not_stop_a_run_but_its_continuation(place, expected, tmp_path):
    """What is trained on is held open; a run that is continued needs the text, and says which."""
    text = tmp_path / "own.txt"
    shutil.copy(place.text, text)
    process = place.start(*place.arguments(f"data.path={text}"))
    place.wait_for_checkpoint(process)
    process.hit("step", 15, random.Random(0))
    process.wait()
    text.rename(tmp_path / "away.txt")
    process = place.resume()
    assert process.wait() == 2 and str(text) in process.sentence(), process.told()
    (tmp_path / "away.txt").rename(text)
    process = place.resume()
    process.hit("step", 0, random.Random(0))
    text.unlink()
    assert process.wait() == 0, process.told()
    assert differences(expected, place.run_folder()) == []
