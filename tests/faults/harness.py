"""Real runs of train.py, watched from outside, hit at a chosen moment, continued and compared to the last bit.

A run is told nothing of its fate: the processes are plain `python train.py`. Only the interpreter is asked, through a
sitecustomize.py, to write the main thread's stack when it receives SIGUSR1. That is how the harness knows in which
phase a process is when it is hit.
"""

import csv
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import prefork
import torch
from running import same

from yinggem.commands.run.outcome import evaluate_run, record_outcome
from yinggem.commands.run.report import print_outcome
from yinggem.commands.train import TrainCommand
from yinggem.common.files import append_text, find_paths, write_atomically
from yinggem.inference.checkpoint import write_checkpoint
from yinggem.runs.metrics_file import depends_on_machine
from yinggem.search.sweep import conclude
from yinggem.training import final_validation

ROOT = Path(__file__).parents[2]
# The chance to be hit at a look (about every 6 ms, or as BETWEEN_LOOKS has it) that finds this phase, if it is wanted,
# times the number of such looks so far: early and late both happen, and nothing is missed.
CHANCE = {"launch": 0.0002, "start-up": 0.01, "step": 0.001, "validation": 0.02, "checkpoint write": 0.1,
          "other files": 0.1, "shutdown": 0.15}  # fmt: skip
BETWEEN_LOOKS = {"other files": 0.001}  # seconds at most, while a phase is wanted: a line is appended in microseconds
WATCHED = """import atexit, os, pathlib, signal
place = os.environ.get("STACKS")

def write_stack(number, frame):
    calls = []
    while frame:
        calls.append(os.path.basename(frame.f_code.co_filename) + " " + frame.f_code.co_name)
        frame = frame.f_back
    os.write(stacks, (";".join(calls) + "\\n").encode())

if place:
    stacks = os.open(place, os.O_WRONLY | os.O_CREAT)
    signal.signal(signal.SIGUSR1, write_stack)
    atexit.register(signal.signal, signal.SIGUSR1, signal.SIG_IGN)
    pathlib.Path(place + ".ready").touch()
"""
SMALL = [
    "experiment=smoke", "data=text", "tokenizer=byte", "optimizer=adafactor", "data.context_length=32",
    "model.dropout=0.1", "model.attention_dropout=0.1", "trainer.max_steps=160", "trainer.val_check_interval=20",
    "trainer.limit_val_batches=1.0", "trainer.log_every_n_steps=1", "callbacks.last.every_n_steps=5",
    "callbacks.samples.max_new_tokens=20", "data.batch_size=4", "callbacks.early_stopping.patience=100",
    "trainer.accelerator=cpu",
]  # fmt: skip


class Place:
    """A folder with a text, a cache and runs in outputs/."""

    def __init__(self, folder: Path, cache: Path | None = None) -> None:
        self.folder, self.outputs = folder, folder / "outputs"
        self.cache = cache or folder / "cache"
        (folder / "site").mkdir(parents=True, exist_ok=True)
        (folder / "site" / "sitecustomize.py").write_text(WATCHED)
        self.text = self.cache.parent / "text.txt"
        if not self.text.exists():
            self.text.write_text(
                "".join(f"{k} times {k} is {k * k}, and half of it {k * k / 2}.\n" for k in range(700))
            )
        self.count = 0

    def arguments(self, *more: str) -> list[str]:
        """The whole command line of the small run; later settings win."""
        return [*SMALL, f"data.path={self.text}", f"outputs={self.outputs}", *more]

    def start(self, *arguments: str, **options: Any) -> "Process":
        """Start train.py with just these arguments."""
        self.count += 1
        return Process(self, list(arguments), self.folder / f"process-{self.count}", **options)

    def run(self, *arguments: str, **options: Any) -> "Process":
        """Run train.py to its end."""
        process = self.start(*arguments, **options)
        process.wait()
        return process

    def resume(self, *more: str, **options: Any) -> "Process":
        """What a user types after a crash; where nothing was begun yet, the same command again."""
        process = self.start("ckpt_path=last", f"outputs={self.outputs}", *more, **options)
        if not self.begun():
            process.wait()
            assert process.status == 2 and process.sentence(), process.told()
            process = self.start(*self.arguments(*more), **options)
        return process

    def begun(self) -> bool:
        """Whether the command line of a run is on disk as a whole."""
        return any(path.read_text().endswith("\n") for path in find_paths(self.outputs, "*/*/.hydra/overrides.yaml"))

    def wait_for_checkpoint(self, process: "Process", seconds: float = 900) -> None:
        """Until the process has written a best.ckpt."""
        end = time.monotonic() + seconds
        while not find_paths(self.outputs, "*/*/checkpoints/best.ckpt"):
            assert process.status is None and time.monotonic() < end, process.told()
            time.sleep(0.01)

    def run_folder(self) -> Path:
        """The one run with a checkpoint."""
        found = [path for path in find_paths(self.outputs, "*/*/") if (path / "checkpoints").exists()]
        assert len(found) == 1, found
        return found[0]


class Process:
    """One train.py; `status` is what it left with.

    Args:
        watch: whether it tells the phase that it is in.
        fresh: started by a new interpreter.
        options: of `prefork.Forked`.
    """

    def __init__(
        self, place: Place, arguments: list[str], log: Path, watch: bool = True, fresh: bool = False, **options: Any
    ) -> None:
        self.arguments, self.stacks = arguments, log.with_suffix(".stacks")
        self._out, self._err, self._read = log.with_suffix(".out"), log.with_suffix(".err"), 0
        environment = os.environ | {
            "YINGGEM_CACHE": str(place.cache),
            "OMP_NUM_THREADS": "1",
            "CUDA_VISIBLE_DEVICES": "",
            "PYTHONDONTWRITEBYTECODE": "1",  # a limit on file sizes must not cut what other processes import
        }
        if watch:
            environment |= {"PYTHONPATH": str(place.folder / "site"), "STACKS": str(self.stacks)}
        with open(self._out, "wb") as out, open(self._err, "wb") as err:
            words = [str(ROOT / "train.py"), *arguments]
            if fresh:
                self.popen: Any = subprocess.Popen(
                    [sys.executable, *words], cwd=place.folder, env=environment,
                    stdin=subprocess.DEVNULL, stdout=out, stderr=err,
                )  # fmt: skip
            else:
                self.popen = prefork.Forked(words, place.folder, environment, out, err, **options)

    @property
    def status(self) -> int | None:
        return self.popen.poll()

    def wait(self, seconds: float = 900) -> int:
        """Until it ends by itself."""
        try:
            return self.popen.wait(seconds)
        except subprocess.TimeoutExpired:
            self.popen.kill()
            raise AssertionError(f"still running after {seconds} s: {self.arguments}") from None

    def told(self) -> str:
        """Everything it printed."""
        return self._out.read_text(errors="replace") + self._err.read_text(errors="replace")

    def sentence(self) -> str:
        """The complaint, when it is one line of it and no traceback; empty otherwise."""
        lines = self._err.read_text(errors="replace").strip().splitlines()
        errors = [line for line in lines if line.startswith("error: ")]
        return errors[0] if len(errors) == 1 and "Traceback" not in self.told() else ""

    def look(self) -> str | None:
        """The phase it is in now; None when it did not say, or is over."""
        if not self.stacks.with_name(self.stacks.name + ".ready").exists():
            return "launch"
        self.popen.send_signal(signal.SIGUSR1)
        end = time.monotonic() + 0.2
        while time.monotonic() < end and self.popen.poll() is None:
            if self.stacks.stat().st_size > self._read:
                with open(self.stacks, "rb") as file:
                    file.seek(self._read)
                    stack = file.read()
                self._read += len(stack)
                return phase_of(stack.decode())
            time.sleep(0.0005)
        return None

    def hit(self, phase: str, number: int, rng: random.Random, seconds: float = 900) -> bool:
        """Send signal `number` at a random moment of a phase; False when the process ended before that."""
        wanted = {phase, "launch"} if phase == "start-up" and number == signal.SIGKILL else {phase}
        end, looks = time.monotonic() + seconds, 0
        while self.popen.poll() is None and time.monotonic() < end:
            seen = self.look()
            looks += seen in wanted
            if seen in wanted and rng.random() < CHANCE[seen] * looks:
                self.popen.send_signal(number)
                return True
            time.sleep(rng.uniform(0.1, 1) * BETWEEN_LOOKS.get(phase, 0.01))
        return False


def phase_of(stack: str) -> str:
    """Which phase the main thread is in, by the functions on its stack."""
    calls = [call.rpartition(" ") for call in stack.strip().split(";")]
    names, files = {name for _, _, name in calls}, {file for file, _, _ in calls}
    if ("train.py", " ", TrainCommand.run.__name__) not in calls:
        return "launch"  # Python and Hydra are being loaded: nobody listens to signals yet
    if write_checkpoint.__name__ in names:
        return "checkpoint write"
    if names & {evaluate_run.__name__, record_outcome.__name__, print_outcome.__name__, conclude.__name__}:
        return "shutdown"
    if not files & {"training_epoch_loop.py", Path(final_validation.__file__).name}:
        return "start-up"
    if names & {append_text.__name__, write_atomically.__name__}:
        return "other files"
    return "validation" if "evaluation_loop.py" in files else "step"


def end_state(run: Path) -> dict[str, Any]:
    """What a run leaves and what must not depend on interruptions."""
    last, best = (torch.load(run / "checkpoints" / f"{name}.ckpt", weights_only=True) for name in ("last", "best"))
    with open(run / "metrics.csv", newline="") as file:
        rows = [
            {name: cell for name, cell in row.items() if not depends_on_machine(name)} for row in csv.DictReader(file)
        ]
    return {
        "step": last["global_step"], "weights": last["state_dict"], "optimizer": last["optimizer_states"],
        "scheduler": last["lr_schedulers"], "metrics": rows, "samples": (run / "samples.txt").read_bytes(),
        "best": (best["global_step"], best["state_dict"]),
    }  # fmt: skip


def differences(expected: dict[str, Any], run: Path) -> list[str]:
    """The names of what differs from an uninterrupted run, and leftovers."""
    try:
        found = end_state(run)
    except Exception as error:
        return [f"does not load: {error}"]
    left = [str(path) for path in run.rglob(".*.partial")] + [
        str(path) for path in run.parent.parent.glob(".*.partial")
    ]
    return [name for name in expected if not same(expected[name], found[name])] + left


def killed_again_and_again(place: Place, phases: list[str], rng: random.Random) -> list[str]:
    """One run, killed once in each of `phases` and continued each time, then left to finish; the phases hit."""
    hits, process = [], place.start(*place.arguments(), fresh=phases[0] == "start-up")
    for wanted in phases:
        phase = wanted
        while not process.hit(phase, signal.SIGKILL, rng):
            assert process.wait() == 0, (process.arguments, process.status, process.told())
            process, phase = place.resume(), "start-up"  # a finished run that is continued does not train any more
        process.wait()
        hits.append(phase)
        process = place.resume()
    assert process.wait() == 0, (process.arguments, process.status, process.told())
    return hits
