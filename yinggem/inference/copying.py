"""The training text that a checkpoint carries, and generation without long copies of it."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from yinggem.common.errors import UserError
from yinggem.common.progress_bar import show_progress
from yinggem.memory.ngram_memory import NgramMemory
from yinggem.text.tokenizer import Tokenizer

if TYPE_CHECKING:  # few texts are limited: what it takes is imported for those
    from yinggem.memory.copy_guard import CopyGuard, CopyLimit
    from yinggem.memory.stretches import Length

MOST_KEPT = 1 << 26  # tokens of a text that is kept once it was decoded


class CopyStep:
    """Forbids the ids that would complete a copy: a step of `generate` for one row.

    Args:
        guard: of a text.
    """

    def __init__(self, guard: "CopyGuard") -> None:
        self.guard = guard

    def apply(self, logits: np.ndarray) -> np.ndarray:
        """Logits (V,) with -inf for every id that would complete a copy."""
        forbidden = self.forbidden()
        if not len(forbidden):
            return logits
        logits = logits.copy()
        logits[forbidden] = -np.inf
        return logits

    def forbidden(self) -> np.ndarray:
        """(K,) those ids, each once or more."""
        return self.guard.forbidden(0)

    def add(self, token: int) -> None:
        """The next id."""
        self.guard.add(0, token)


class TrainingText:
    """The text that a model was trained on.

    Args:
        memory: of the model's checkpoint.

    Raises:
        UserError: there is no memory.
    """

    def __init__(self, memory: NgramMemory | None, tokenizer: Tokenizer) -> None:
        if memory is None:
            raise UserError(
                "This checkpoint does not hold its training text; train a model with memory=ngram, "
                "or use a checkpoint of one."
            )
        self.ids, self.tokenizer = memory.ids, tokenizer
        self._limit: CopyLimit | None = None
        self._texts: list[str] | None = None  # in chunks, once it was read to its end

    def chunks(self) -> Iterator[str]:
        """The text from its beginning; it is decoded once, and kept unless it is long."""
        if self._texts is not None:
            yield from self._texts
            return
        from yinggem.memory.stretches import decoded

        kept: list[str] = []
        with show_progress("Reading the training text", len(self.ids)) as advance:
            for text in decoded(self.ids, self.tokenizer, advance):
                if len(self.ids) <= MOST_KEPT:
                    kept.append(text)
                yield text
        if kept:
            self._texts = kept

    def steps(self, max_copy: "int | str | Length | None", prompts: Sequence[str]) -> list[list[CopyStep]]:
        """Of every row the steps of `generate` that keep copies to `max_copy` words, or characters as in "40c".

        The first call of a limit makes its index: about a second for 5 MB of text.

        Args:
            max_copy: None is no limit.
            prompts: the text before the output, one for each row.

        Raises:
            UserError: `max_copy` is neither a number of words nor of characters.
        """
        if max_copy is None:
            return [[] for _ in prompts]
        from yinggem.memory.copy_guard import CopyGuard, CopyLimit
        from yinggem.memory.stretches import Length

        length = Length.of(max_copy)
        if self._limit is None or self._limit.limit != length:
            self._limit = CopyLimit(self.chunks(), length, self.tokenizer.tokens)
        return [[CopyStep(CopyGuard(self._limit, [prompt]))] for prompt in prompts]
