"""A checkpoint that is being served, and the one place that says which: it may be replaced while requests run."""

import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from yinggem.common.errors import UserError
from yinggem.inference.copying import CopyStep, TrainingText
from yinggem.inference.files.stored_model import StoredModel, read_model
from yinggem.inference.networks.opening import open_network
from yinggem.inference.networks.rows import rows_of
from yinggem.inference.starter import memory_of
from yinggem.memory.ngram_memory import NgramMemory
from yinggem.runs.layout import BEST, checkpoint, run_of
from yinggem.serving.batcher import Batcher

POLL = 1.0  # seconds between two looks at the checkpoint of a run


@dataclass(frozen=True)
class Opening:
    """How checkpoints are opened.

    Attributes:
        rows: texts that go on side by side.
        most_waiting, counted: as `Batcher`.
    """

    device: str | None
    quantization: str | None
    rows: int
    most_waiting: int
    counted: Callable[[int, int], None]


class ServedModel:
    """A checkpoint with all that requests need of it.

    Attributes:
        scorer: the memory as it scores a text that is given; None where there is none.
    """

    def __init__(self, stored: StoredModel, opening: Opening) -> None:
        network = open_network(stored, opening.device, opening.quantization)
        self.path, self.tokenizer, self.memory = stored.path, stored.tokenizer, memory_of(stored)
        self.config, self.about, self.created = stored.config, network.about, int(os.path.getmtime(stored.path))
        self.quantization, self.step = opening.quantization, stored.content.get("global_step")
        self.batcher = Batcher(rows_of(network), opening.rows, opening.most_waiting, opening.counted)
        self._training: TrainingText | None = None
        self._scorer: NgramMemory | None = None
        self._lock = threading.Lock()

    def copy_steps(self, max_copy: int | str | None, texts: Sequence[str]) -> list[list[CopyStep]]:
        """As `TrainingText.steps`, one request at a time: the first of a limit makes an index."""
        if max_copy is None:
            return [[] for _ in texts]
        with self._lock:
            self._training = self._training or TrainingText(self.memory, self.tokenizer)
            return self._training.steps(max_copy, texts)

    @property
    def scorer(self) -> NgramMemory | None:
        """The memory with the mixture of `NgramMemory.score` for every distribution."""
        with self._lock:
            if self._scorer is None and self.memory is not None:
                self._scorer = replace(self.memory, generating=self.memory.scoring)
                vars(self._scorer)["counts"] = self.memory.counts  # read once
            return self._scorer


class ModelSource:
    """Says which model is served now. It opens it in a thread of its own, so that the server can answer meanwhile.

    Args:
        path: the checkpoint.
        run: the run whose best checkpoint takes its place whenever there is a newer one; None: it stays.
        tell: prints a line.
        opened: is called once the checkpoint is open, or could not be opened.

    Attributes:
        replaced: how often another took its place.
        failure: why the checkpoint could not be opened.
    """

    def __init__(
        self, path: Path | None, opening: Opening, run: Path | None = None, tell: Callable[[str], None] = print,
        opened: "Callable[[ModelSource], None]" = lambda source: None,
    ) -> None:  # fmt: skip
        self._opening, self._run, self._tell, self._opened = opening, run, tell, opened
        self.current: ServedModel | None = None
        self.replaced = 0
        self.failure: Exception | None = None
        self._stop, self._ready = threading.Event(), threading.Event()
        threading.Thread(target=self._work, args=(path,), name="yinggem-source", daemon=True).start()

    @property
    def is_opening(self) -> bool:
        """Whether it is not known yet what is served."""
        return not self._ready.is_set()

    def wait(self) -> None:
        """Until it is."""
        self._ready.wait()

    @property
    def run(self) -> Path | None:
        """The folder of the run that the model is of."""
        if self._run is not None:
            return self._run
        return run_of(self.current.path) if self.current else None

    def close(self) -> None:
        """Follow no longer, and end the model when it is done."""
        self._stop.set()
        if self.current:
            self.current.batcher.close()

    def _work(self, path: Path | None) -> None:
        seen = _signature(path)
        try:
            self.current = ServedModel(read_model(path), self._opening) if path else None
        except Exception as error:
            self.failure = error
        self._ready.set()
        self._opened(self)
        if self._run is not None and self.failure is None:
            self._follow(self._run, seen)

    def _follow(self, run: Path, last: "Signature | None") -> None:
        while not self._stop.wait(POLL):
            path = checkpoint(run, BEST)
            seen = _signature(path)
            if path is None or seen is None or seen == last:
                continue
            last = seen
            try:
                began, new = time.monotonic(), ServedModel(read_model(path), self._opening)
            except Exception as error:  # what is served goes on
                self._tell(f"note: {path} was not taken: {error}")
                continue
            old, self.current = self.current, new
            self.replaced += 1
            if old:
                old.batcher.close()
            self._tell(f"Serving {path} of step {new.step} now ({time.monotonic() - began:.2g} s).")


Signature = tuple[int, int, int]


def _signature(path: Path | None) -> Signature | None:
    """What changes when a file is replaced."""
    try:
        found = os.stat(path) if path else None
    except OSError:
        return None
    return (found.st_mtime_ns, found.st_size, found.st_ino) if found else None


class NoModelError(UserError):
    """There is no model: the run that is followed has no checkpoint yet, or it could not be opened."""
