"""The compiled engine as generation sees it."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from yinggem.engine.engine import Engine, sampling_refusal
from yinggem.engine.memory import EngineMemory
from yinggem.inference.copying import CopyStep
from yinggem.inference.generation import NOTHING, LogitsStep
from yinggem.inference.memory_step import MemoryStep
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

    def draws(self, sampling: Sampling, steps: Sequence[Sequence[LogitsStep]]) -> bool:
        """Whether the engine knows every setting and step, and reads its weights often enough for one row at a time."""
        known = all(knows(sampling, each) for each in steps)
        return known and (len(steps) == 1 or self.config.parameters <= ONE_AFTER_ANOTHER)

    def draw(
        self,
        prompts: np.ndarray,
        max_new_tokens: int,
        sampling: Sampling,
        seeds: Sequence[int],
        steps: Sequence[Sequence[LogitsStep]],
        end: int | None = None,
    ) -> Iterator[Sequence[int]]:
        """As `Network.draw`: row by row a few tokens, more where they take no time."""
        texts = EngineTexts(self, prompts)
        rows = [
            DrawnRow(texts.engine, *row, sampling, end) for row in zip(texts.rows, prompts, seeds, steps, strict=True)
        ]
        most = 1 if any(row.limits for row in rows) else CHUNK  # what may follow is said token by token
        made, size = 0, 1
        try:
            while made < max_new_tokens and not all(row.ended for row in rows):
                began, size = time.perf_counter(), min(size, max_new_tokens - made)
                yield from zip(*[row.draw(made, size) for row in rows], strict=True)
                made += size
                taken = time.perf_counter() - began
                size = min(2 * size, most) if taken < SOON else max(1, size // 2) if taken > 4 * SOON else size
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


def knows(sampling: Sampling, steps: Sequence[LogitsStep]) -> bool:
    """Whether the engine knows the settings and steps of a row: a memory in C, or none, then limits on copies."""
    first = bool(steps) and isinstance(steps[0], MemoryStep) and isinstance(steps[0].counting, EngineMemory)
    return sampling_refusal(sampling) is None and all(isinstance(step, CopyStep) for step in steps[first:])


class DrawnRow:
    """A row of an engine that draws by itself.

    Attributes:
        limits: what forbids ids, token by token.
        ended: nothing may be drawn any more.
    """

    def __init__(
        self, engine: Engine, row: int, prompt: np.ndarray, seed: int, steps: Sequence[LogitsStep], sampling: Sampling,
        end: int | None,
    ) -> None:  # fmt: skip
        self.engine, self.row, self.seed, self.sampling, self.end = engine, row, seed, sampling, end
        counting = [step.counting for step in steps if isinstance(step, MemoryStep)]
        self.memory = next((memory for memory in counting if isinstance(memory, EngineMemory)), None)
        self.limits, self.ended = [step for step in steps if isinstance(step, CopyStep)], False
        # Of the text so far penalty and n-gram filter look at so many ids.
        window = sampling.repetition_window if sampling.repetition_penalty != 1 else 0
        self.most: Any = None if window is None or sampling.no_repeat_ngram_size else window
        self.history = self._last(prompt)

    def draw(self, start: int, count: int) -> list[int]:
        """`count` ids, the first of which is number `start` of the sample; NOTHING where it has ended."""
        if self.ended:
            return [NOTHING] * count
        forbidden = np.concatenate([limit.forbidden() for limit in self.limits]) if self.limits else ()
        ids = self.engine.generate(
            self.row, self.sampling, self.seed, self.history, start, count, self.end, self.memory, forbidden
        )
        for limit in self.limits:
            for token in ids:
                limit.add(token)
        self.history = self._last(np.concatenate([self.history, np.array(ids, self.history.dtype)]))
        self.ended = len(ids) < count
        return ids + [NOTHING] * (count - len(ids))

    def _last(self, ids: np.ndarray) -> np.ndarray:
        return ids if self.most is None else ids[len(ids) - min(len(ids), self.most) :]


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
