"""The memory while generating: the network's probabilities mixed with what counting says, before every filter."""

from collections import deque
from collections.abc import Sequence

import numpy as np

from yinggem.common.checks import check_number
from yinggem.common.errors import UserError
from yinggem.engine.memory import EngineMemory, memory_refusal
from yinggem.inference.completion import opening, prompt_ids
from yinggem.memory.ngram_memory import NgramMemory
from yinggem.text.tokenizer import Tokenizer

MOST_SHARE = 2.0  # of what counting says, beyond what was fitted


class MemoryStep:
    """Mixes the memory into the logits of one row.

    Args:
        prompt: its ids; with those that are added they are the context.
        typed: (N,) ids that are counted beside the training text, as `typed_ids`. What is generated never is: counting
            it would say again what was said.
        share: 0 is the network alone, 1 the fitted mixture.

    Attributes:
        counting: in C where it can be.
    """

    def __init__(self, memory: NgramMemory, prompt: Sequence[int], typed: np.ndarray, share: float = 1.0) -> None:
        kind = NumpyMemory if memory_refusal(memory) else EngineMemory
        self.counting = kind(memory, prompt, typed, share)

    def apply(self, logits: np.ndarray) -> np.ndarray:
        """(V,) -> the logs of the mixed probabilities, (V,)."""
        mixed: np.ndarray = np.log(self.counting.mix(logits)).astype(np.float32)
        return mixed

    def add(self, token: int) -> None:
        """Go on after an id."""
        self.counting.add([token])


class NumpyMemory:
    """As `EngineMemory`, where there is no compiled engine."""

    def __init__(self, memory: NgramMemory, prompt: Sequence[int], typed: np.ndarray, share: float) -> None:
        self.memory, self.typed, self.share = memory, typed, share
        self.length = 0
        self.context: deque[int] = deque(maxlen=memory.longest)
        self.add(prompt)

    def add(self, ids: Sequence[int]) -> None:
        """The text goes on."""
        self.length += len(ids)
        self.context.extend(ids)

    def mix(self, logits: np.ndarray) -> np.ndarray:
        """The network's logits (V,) of the next token -> probabilities (V,) float64."""
        network = np.exp(logits - logits.max(), dtype=np.float64)
        network /= network.sum()
        return self.memory.distribution(network, np.array(self.context), self.typed, self.share, self.length)


def memory_steps(
    memory: NgramMemory | None,
    tokenizer: Tokenizer,
    prompt: str,
    rows: int,
    share: float | None = None,
    generated: Sequence[tuple[int, int]] = (),
) -> list[list[MemoryStep]]:
    """Of every row the steps of `generate` that mix in the memory of a checkpoint, if it has one.

    Args:
        rows: how often the prompt is continued.
        share: 0 is the network alone, 1 the fitted mixture, at most MOST_SHARE; None: 1 where there is a memory.
        generated: as `typed_ids`.

    Raises:
        UserError: `share` is out of range, or is asked for without a memory; as `typed_ids`.
    """
    if share is not None:
        check_number("memory", share, 0, MOST_SHARE)
        if share and memory is None:
            raise UserError("This checkpoint has no memory; leave --memory out, or train a model with memory=ngram.")
    if memory is None or share == 0:
        return [[] for _ in range(rows)]
    ids = prompt_ids(tokenizer, prompt)
    typed = typed_ids(tokenizer, prompt, ids if prompt else [], generated)
    return [[MemoryStep(memory, ids, typed, 1.0 if share is None else float(share))] for _ in range(rows)]


def typed_ids(
    tokenizer: Tokenizer, prompt: str, ids: Sequence[int], generated: Sequence[tuple[int, int]] = ()
) -> np.ndarray:
    """The ids (N,) of a prompt, with vocab_size in place of those that are not to be counted.

    Args:
        generated: stretches of the prompt, [from, to) in characters, that a model wrote earlier.

    Raises:
        UserError: a stretch is not one of the prompt.
    """
    found = np.array(ids, np.int64)
    before = opening(tokenizer, prompt).partition(prompt)[0] if prompt else ""  # of a template
    ends = np.cumsum(tokenizer.token_byte_lengths[found].astype(np.int64)) - len(before.encode())
    starts = ends - tokenizer.token_byte_lengths[found]
    for stretch in generated:
        first, last = stretch
        if not (isinstance(first, int) and isinstance(last, int) and 0 <= first <= last <= len(prompt)):
            raise UserError(f"generated={stretch!r} is not a stretch (from, to) of the {len(prompt)} characters typed.")
        place = len(prompt[:first].encode()), len(prompt[:last].encode())
        found[(starts < place[1]) & (ends > place[0])] = tokenizer.vocab_size
    return found
