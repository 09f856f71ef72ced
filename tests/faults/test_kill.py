"""SIGKILL at any moment: the run is continued and ends with the bits of one that was never disturbed."""

import random
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from harness import Place, differences, killed_again_and_again
from running import sized

pytestmark = pytest.mark.slow
CHAIN = ["start-up", "step", "checkpoint write", "validation", "other files", "shutdown"]
CHAINS = sized(1, 4)
RUNS = 20  # of a chain at most


def test_killed_in_every_phase_nothing_is_lost(tmp_path, straight):
    """A run that is killed in one phase after the other; `make soak` has four, two at a time.

    A phase may be over before a look finds it, the more so on a fast machine: then another run is killed in it.
    """
    cache, expected = straight

    def chain(seed: int) -> tuple[list[str], list[str]]:
        rng, hits, lost = random.Random(seed), list[str](), list[str]()
        for number in range(RUNS):
            left = [phase for phase in CHAIN if phase not in hits]
            if not left:
                break
            place = Place(tmp_path / f"chain-{seed}-{number}", cache)
            found = killed_again_and_again(place, left, rng)
            assert len(found) == len(left)
            hits += found
            lost += differences(expected, place.run_folder())
        return hits, lost

    with ThreadPoolExecutor(2) as pool:
        outcomes = list(pool.map(chain, range(CHAINS)))
    assert [lost for _, lost in outcomes] == [[]] * CHAINS
    assert [set(hits) for hits, _ in outcomes] == [set(CHAIN)] * CHAINS


@pytest.fixture(scope="module")
def stopped(tmp_path_factory, straight) -> Place:
    """A run killed in the middle."""
    place = Place(tmp_path_factory.mktemp("stopped"), straight[0])
    process = place.start(*place.arguments())
    place.wait_for_checkpoint(process)
    assert process.hit("validation", 9, random.Random(5))
    process.wait()
    return place


def cut_metrics(run: Path) -> None:
    path = run / "metrics.csv"
    path.write_bytes(path.read_bytes() + b"77,0.5,1.2")


def cut_samples(run: Path) -> None:
    path = run / "samples.txt"
    path.write_bytes(path.read_bytes() + "=== step 100 ===\nhalf of an é".encode()[:-1])


def leave_partial_files(run: Path) -> None:
    for place in (run, run / "checkpoints", run / ".hydra"):
        (place / ".x.ckpt.999999999-0123abcd.partial").write_bytes(b"half")


def drop_latest(run: Path) -> None:
    (run.parents[1] / "latest").unlink()


def lead_latest_nowhere(run: Path) -> None:
    drop_latest(run)
    (run.parents[1] / "latest").symlink_to("2001-01-01/00-00-00")


def begin_another_run(run: Path) -> None:
    """A folder claimed by a run that was killed before it wrote a word."""
    (run.parent / "99-99-99" / ".hydra").mkdir(parents=True)


DAMAGES = [cut_metrics, cut_samples, leave_partial_files, drop_latest, lead_latest_nowhere, begin_another_run]


def test_what_a_kill_may_leave_half_done_harms_nothing(stopped, expected, tmp_path, straight):
    """A row, a sample, a link, a folder cut in the middle: all at once, then the link the other way."""
    for number, damages in enumerate((DAMAGES[:4], DAMAGES[4:])):
        place = Place(tmp_path / str(number), straight[0])
        shutil.copytree(stopped.outputs, place.outputs, symlinks=True)
        for damage in damages:
            damage(place.run_folder())
        process = place.resume()
        process.wait()
        assert process.status == 0, process.told()
        assert differences(expected, place.run_folder()) == []


def test_a_damaged_last_checkpoint_is_named_with_the_newest_good_one(stopped, expected, tmp_path, straight):
    place = Place(tmp_path / "damaged", straight[0])
    shutil.copytree(stopped.outputs, place.outputs, symlinks=True)
    last, best = (place.run_folder() / "checkpoints" / f"{name}.ckpt" for name in ("last", "best"))
    data = bytearray(last.read_bytes())
    data[len(data) // 2] ^= 4
    last.write_bytes(data)
    process = place.run("ckpt_path=last", f"outputs={place.outputs}")
    assert process.status == 2 and "damaged" in process.sentence() and f"ckpt_path={best.resolve()}" in process.told()
    process = place.run(f"ckpt_path={best}")
    assert process.status == 0, process.told()
    assert differences(expected, place.run_folder()) == []


def test_where_no_checkpoint_is_whole_the_run_must_be_trained_again(stopped, tmp_path, straight):
    place = Place(tmp_path / "all damaged", straight[0])
    shutil.copytree(stopped.outputs, place.outputs, symlinks=True)
    for checkpoint in (place.run_folder() / "checkpoints").glob("*.ckpt"):
        checkpoint.write_bytes(checkpoint.read_bytes()[:-100])
    process = place.run("ckpt_path=last", f"outputs={place.outputs}")
    assert process.status == 2 and "train it again" in process.sentence()


def test_a_run_killed_before_its_command_line_was_written_is_told_apart(place):
    run = place.outputs / "2026-01-01" / "10-00-00"
    (run / ".hydra").mkdir(parents=True)
    (run / ".hydra" / "overrides.yaml").write_text("")
    process = place.run("ckpt_path=last", f"outputs={place.outputs}")
    assert process.status == 2 and "start it again" in process.sentence()
