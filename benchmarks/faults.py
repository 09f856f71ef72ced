"""The faults of tests/faults at random points, for as long as one likes: a table of tries and losses.

    python benchmarks/faults.py --rounds 5

Every try is a real `python train.py` that is killed, stopped, or robbed of its checkpoint, and continued. It is lost
when it cannot be continued, or ends with other weights, optimizer state, metrics, samples or best checkpoint than a
run that nobody disturbed. A round is one try of each kind.
"""

import argparse
import random
import shutil
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1] / place) for place in (".", "tests", "tests/faults")]
from harness import CHANCE, Place, Process, differences, end_state  # noqa: E402

PHASES = [phase for phase in CHANCE if phase != "launch"]  # which is part of start-up
Fault = Callable[[Place, random.Random], bool]


def hit(phase: str, number: int) -> Fault:
    """A signal at a random moment of a phase."""

    def fault(place: Place, rng: random.Random) -> bool:
        process = place.start(*place.arguments())
        was_hit = process.hit(phase, number, rng)
        process.wait()
        end_well(place.resume())
        return was_hit

    return fault


def damage(change: Callable[[bytearray, random.Random], None]) -> Fault:
    """Kill a run, damage its last.ckpt, continue from what the refusal offers."""

    def fault(place: Place, rng: random.Random) -> bool:
        process = place.start(*place.arguments())
        process.hit("step", signal.SIGKILL, rng)
        process.wait()
        last = next(iter(place.outputs.glob("*/*/checkpoints/last.ckpt")), None)
        if last is not None:
            data = bytearray(last.read_bytes())
            change(data, rng)
            last.write_bytes(data)
            refusal = place.run("ckpt_path=last", f"outputs={place.outputs}")
            best = last.with_name("best.ckpt")
            assert refusal.status == 2 and refusal.sentence(), refusal.told()
            assert not best.exists() or str(best.resolve()) in refusal.sentence(), refusal.told()
            if best.exists():
                end_well(place.start(f"ckpt_path={best}"))
                return True
            last.unlink()
        end_well(place.resume())
        return last is not None

    return fault


def end_well(process: Process) -> None:
    """Wait for the end of a continued run."""
    assert process.wait() == 0, process.told()


def flip(data: bytearray, rng: random.Random) -> None:
    """One bit, anywhere."""
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def cut(data: bytearray, rng: random.Random) -> None:
    """A file that ends too early."""
    del data[rng.randrange(len(data)) :]


FAULTS: dict[str, Fault] = {
    **{f"SIGKILL in {phase}": hit(phase, signal.SIGKILL) for phase in PHASES},
    **{f"SIGTERM in {phase}": hit(phase, signal.SIGTERM) for phase in PHASES},
    **{f"Ctrl-C in {phase}": hit(phase, signal.SIGINT) for phase in PHASES},
    "SIGKILL, one bit of last.ckpt flipped": damage(flip),
    "SIGKILL, last.ckpt cut short": damage(cut),
}


def main() -> None:
    """Run the rounds, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    tries, hits, losses = Counter[str](), Counter[str](), Counter[str]()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        straight = Place(folder / "straight")
        assert straight.run(*straight.arguments(), watch=False).status == 0
        expected = end_state(straight.run_folder())
        for number in range(options.rounds):
            for title, fault in FAULTS.items():
                place = Place(folder / "try", straight.cache)
                tries[title] += 1
                try:
                    hits[title] += fault(place, random.Random(f"{options.seed} {number} {title}"))
                    lost = differences(expected, place.run_folder())
                except AssertionError as error:
                    lost = [str(error)]
                losses[title] += bool(lost)
                print(f"round {number + 1}: {title}: {'LOST ' + str(lost) if lost else 'nothing lost'}", flush=True)
                shutil.rmtree(place.folder)
    print(f"\n{'fault':<40} {'tries':>6} {'hit in time':>12} {'lost':>6}")
    for title in FAULTS:
        print(f"{title:<40} {tries[title]:>6} {hits[title]:>12} {losses[title]:>6}")
    print(f"{'all':<40} {tries.total():>6} {hits.total():>12} {losses.total():>6}")


if __name__ == "__main__":
    main()
