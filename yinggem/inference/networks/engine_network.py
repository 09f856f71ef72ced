"""The compiled engine as generation sees it."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from yinggem.engine.engine import Engine, sampling_refusal
from yinggem.inference.sampling import Sampling
from yinggem.model.config import ModelConfig

CHUNK = 64  # tokens that are drawn before Python has its turn, at most
SOON = 0.02  # seconds that a chunk may take: text comes smoothly, and Ctrl-C is heard
ONE_AFTER_ANOTHER = 4_000_000  # parameters up to which reading the weights anew for each row costs nothing


class EngineNetwork:
    """Computes in C, on the CPU. Texts take rows of an engine; where none are left, of another one.

    Args:
        make: a new engine.
    """

    def __init__(self, config: ModelConfig, make: Callable[[], Engine]) -> None:
        self.config, self._make, self._lock = config, make, threading.Lock()
        first = make()
        self.most_rows: int | None = first.rows
        self._free: list[tuple[Engine, list[int]]] = [(first, [*range(first.rows)])]
        self.about = f"C on cpu: {first.kernels}, {first.storage}, threads: {first.threads}"

    def read(self, prompts: np.ndarray) -> "EngineTexts":
        """As `Network.read`."""
        return EngineTexts(self, prompts)

    def draws(self, sampling: Sampling, rows: int) -> bool:
        """Whether the engine knows every setting, and reads its weights often enough for one row at a time."""
        return sampling_refusal(sampling) is None and (rows == 1 or self.config.parameters <= ONE_AFTER_ANOTHER)

    def draw(
        self,
        prompts: np.ndarray,
        max_new_tokens: int,
        sampling: Sampling,
        seeds: Sequence[int],
        end: int | None = None,
    ) -> Iterator[Sequence[int]]:
        """As `Network.draw`: row by row a few tokens, more where they take no time."""
        texts = EngineTexts(self, prompts)
        histories = [_Recent(prompt, sampling) for prompt in prompts]
        made, size = 0, 1
        try:
            while made < max_new_tokens:
                began, size = time.perf_counter(), min(size, max_new_tokens - made)
                chunks = []
                for row, seed, history in zip(texts.rows, seeds, histories, strict=True):
                    chunks.append(texts.engine.generate(row, sampling, seed, history.ids, made, size, end))
                    history.add(chunks[-1])
                yield from zip(*chunks, strict=True)
                made += size
                taken = time.perf_counter() - began
                size = min(2 * size, CHUNK) if taken < SOON else max(1, size // 2) if taken > 4 * SOON else size
        finally:
            texts.close()

    def nats(self, ids: np.ndarray) -> np.ndarray:
        """As `Network.nats`."""
        return self._free[0][0].score(ids)

    def take(self, count: int) -> tuple[Engine, list[int]]:
        """An engine and so many of its rows, which nobody else uses."""
        with self._lock:
            for engine, free in self._free:
                if len(free) >= count:
                    taken, free[:] = free[:count], free[count:]
                    return engine, taken
            engine = self._make()
            self._free.append((engine, [*range(count, engine.rows)]))
            return engine, [*range(count)]

    def give_back(self, engine: Engine, rows: list[int]) -> None:
        """They are free for others."""
        with self._lock:
            next(free for one, free in self._free if one is engine).extend(rows)


class _Recent:
    """The ids of a text that penalty and n-gram filter look at."""

    def __init__(self, prompt: np.ndarray, sampling: Sampling) -> None:
        window = sampling.repetition_window if sampling.repetition_penalty != 1 else 0
        self.most: Any = None if window is None or sampling.no_repeat_ngram_size else window
        self.ids = prompt
        self.add([])

    def add(self, ids: Sequence[int]) -> None:
        """The text goes on."""
        self.ids = np.concatenate([self.ids, np.array(ids, self.ids.dtype)])
        if self.most is not None:
            self.ids = self.ids[len(self.ids) - min(len(self.ids), self.most) :]


class EngineTexts:
    """As `Texts`: rows of an engine."""

    def __init__(self, network: EngineNetwork, prompts: np.ndarray) -> None:
        self.network = network
        self.engine, self.rows = network.take(len(prompts))
        try:
            logits: list[np.ndarray] = []
            for number, (row, prompt) in enumerate(zip(self.rows, prompts, strict=True)):
                self.engine.reset(row)
                if number and (prompt == prompts[0]).all():
                    self.engine.copy(self.rows[0], row)
                    logits.append(logits[0])
                else:
                    logits.append(self.engine.read(row, prompt))
            self.logits = np.stack(logits)
        except BaseException:
            self.close()
            raise

    def add(self, tokens: Sequence[int]) -> None:
        """As `Texts.add`."""
        self.logits = self.engine.step(self.rows, tokens)

    def close(self) -> None:
        """As `Texts.close`."""
        self.network.give_back(self.engine, self.rows)
        self.rows = []
