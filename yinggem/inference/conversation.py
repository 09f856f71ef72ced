"""One text that a person and a model write in turns; what stands there is never read a second time."""

from collections.abc import Callable, Iterator

import numpy as np

from yinggem.engine.engine import Engine
from yinggem.inference.completion import Completion, opening, prompt_ids, turn
from yinggem.inference.copying import TrainingText
from yinggem.inference.draws import uniform
from yinggem.inference.filters import History
from yinggem.inference.generation import NOTHING, LogitsStep, check_finite, next_token
from yinggem.inference.memory_step import MemoryStep
from yinggem.inference.networks.engine_network import DrawnRow, knows
from yinggem.inference.networks.rows import Rows
from yinggem.inference.sampling import Sampling
from yinggem.memory.ngram_memory import NgramMemory
from yinggem.text.tokenizer import Tokenizer

ROW = 0
READ = 64  # ids read at once: Ctrl-C is heard between two calls


class Conversation:
    """A text so far, in a row of a model.

    Args:
        training: for `max_copy`; None where there is no limit.
        share: of the memory.

    Attributes:
        text: what was typed and what was written.
        seed: with the number of tokens written so far it determines the next one.
    """

    def __init__(
        self, rows: Rows, tokenizer: Tokenizer, sampling: Sampling, seed: int = 0, stops: tuple[str, ...] = (),
        memory: NgramMemory | None = None, share: float = 1.0, training: TrainingText | None = None,
        max_copy: str | None = None, ignore_end: bool = False,
    ) -> None:  # fmt: skip
        self._rows, self.tokenizer, self.sampling, self.seed, self.stops = rows, tokenizer, sampling, seed, stops
        self._memory, self._share, self._training, self._max_copy = memory, share, training, max_copy
        self._ignore_end = ignore_end
        self.reset()

    def reset(self) -> None:
        """Begin anew."""
        self._rows.reset(ROW)
        self.text, self.written = "", 0
        self._ids: list[int] = []
        self._typed: list[int] = []  # the ids with vocab_size in place of those that the model wrote
        self._read = 0  # how many the row has

    def say(self, typed: str, count: int) -> Iterator[str]:
        """Go on with what a person typed and then with up to `count` tokens, giving the pieces of their text.

        It can be left at any piece; the text then ends there.

        Raises:
            UserError: the tokenizer cannot encode what was typed; then it was not.
        """
        ids = self._ids_of(typed)
        self._add(ids, ids if typed else [self.tokenizer.vocab_size] * len(ids))
        self.text += typed
        sample = Completion(self.tokenizer, self.seed, self.stops, self._ignore_end)
        next_id = self._drawing(self._steps())
        for number in range(count):
            token = next_id()
            if token == NOTHING:
                break
            self.written += 1
            self._add([token], [self.tokenizer.vocab_size])
            piece = sample.push(token) + (sample.finish() if number + 1 == count else "")
            self.text += piece
            yield piece
            if sample.finish_reason:
                return
        piece = sample.finish("copy")
        self.text += piece
        yield piece

    def _ids_of(self, typed: str) -> list[int]:
        """What is read of a line: the beginning of a text, its continuation, or with a template another turn."""
        if not self._ids:
            return prompt_ids(self.tokenizer, typed)
        if self.tokenizer.template is None:
            return self.tokenizer.encode(typed)
        end = [] if self._ids[-1] == self.tokenizer.end_id else [self.tokenizer.end_id or 0]
        return [*end, *self.tokenizer.encode(opening(self.tokenizer, typed)), *turn(self.tokenizer)]

    def _add(self, ids: list[int], typed: list[int]) -> None:
        self._ids += ids
        self._typed += typed

    def _logits(self) -> np.ndarray:
        """Of what follows, after reading what is new (V,)."""
        while self._read < len(self._ids):
            part = self._ids[self._read : self._read + READ]
            logits = self._rows.read(ROW, part)
            self._read += len(part)
        check_finite(logits)
        return logits

    def _drawing(self, steps: list[LogitsStep]) -> Callable[[], int]:
        """What draws the next id, by the engine itself where it can."""
        end = self.tokenizer.end_id
        if isinstance(self._rows, Engine) and knows(self.sampling, steps):
            row = DrawnRow(self._rows, ROW, np.array(self._ids), self.seed, steps, self.sampling, end)

            def in_c() -> int:
                if self._read < len(self._ids):
                    self._logits()
                (token,) = row.draw(self.written, 1)
                self._read += token != NOTHING  # the row reads by itself what it has drawn
                return token

            return in_c
        history = History(self._ids, self.tokenizer.vocab_size, self.sampling, end)
        return lambda: next_token(self._logits(), steps, self.sampling, history, uniform(self.seed, self.written))

    def _steps(self) -> list[LogitsStep]:
        steps: list[LogitsStep] = []
        if self._memory is not None and self._share:
            steps.append(MemoryStep(self._memory, self._ids, np.array(self._typed, np.int64), self._share))
        if self._training is not None:
            steps += self._training.steps(self._max_copy, [self.text])[0]
        return steps
