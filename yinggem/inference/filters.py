"""Which of the next ids may be drawn: the filters, with numpy alone, in the order of transformers' logits processors.

Another filter is a function here, an entry of `FILTERS`, and a field of its name in `yinggem.inference.sampling`.
"""

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from yinggem.inference.draws import draw
from yinggem.inference.sampling import Sampling

LEAST_TEMPERATURE = 1e-5  # below it the likeliest token is certain in float32


def keep_top_k(logits: np.ndarray, k: int) -> np.ndarray:
    """The k likeliest tokens, and those as likely as the k-th."""
    if k >= len(logits):
        return np.ones(len(logits), bool)
    kept: np.ndarray = logits >= np.partition(logits, -k)[-k]
    return kept


def keep_top_p(logits: np.ndarray, p: float) -> np.ndarray:
    """The smallest set of likeliest tokens whose probability reaches p: those with less than p before them."""
    probabilities = softmax(logits)
    # A full sort of GPT-2's vocabulary would take most of the time: what is below is not even 1 - p together.
    candidates = np.flatnonzero(probabilities >= (1 - p) / len(logits) * 0.999)
    order = candidates[np.argsort(-probabilities[candidates], kind="stable")]
    likeliest = probabilities[order]
    reached = likeliest.cumsum(dtype=np.float64).astype(np.float32) - likeliest >= p
    kept = np.zeros(len(logits), bool)
    kept[order[: reached.argmax()] if reached.any() else order] = True
    return kept


def keep_min_p(logits: np.ndarray, p: float) -> np.ndarray:
    """Tokens at least p times as likely as the likeliest."""
    probabilities = softmax(logits)
    kept: np.ndarray = probabilities >= np.float32(p) * probabilities.max()
    return kept


def keep_typical(logits: np.ndarray, p: float) -> np.ndarray:
    """Locally typical sampling (Meister et al. 2022): tokens whose surprise is nearest the entropy, up to mass p."""
    probabilities, highest = softmax(logits), logits.max()
    logs = logits - (highest + np.log(np.exp(logits - highest, dtype=np.float64).sum())).astype(np.float32)
    distance = np.abs(-logs + np.float32((logs * probabilities).sum(dtype=np.float64)))
    order = np.argsort(distance, kind="stable")
    mass = probabilities[order].cumsum(dtype=np.float64).astype(np.float32)
    last = min(int((mass < p).sum()), len(order) - 1)
    kept: np.ndarray = distance <= distance[order[last]]
    return kept


# From the logits (N,), float32 and finite, of the tokens that are left, and the setting's value: which of them stay,
# (N,) booleans, at least one.
Filter = Callable[[np.ndarray, Any], np.ndarray]
FILTERS: dict[str, Filter] = {
    "top_k": keep_top_k,
    "top_p": keep_top_p,
    "min_p": keep_min_p,
    "typical_p": keep_typical,
}


def softmax(logits: np.ndarray) -> np.ndarray:
    """(N,) float32 -> probabilities (N,) float32."""
    probabilities: np.ndarray = np.exp(logits - logits.max())
    probabilities /= probabilities.sum()
    return probabilities


class History:
    """What the choice of the next id needs to know of one text and its settings, kept up to date in constant time.

    Args:
        prompt: ids; they count as seen.
        exempt: an id that counts as unseen: the end of a document, which every text begins with.
    """

    def __init__(self, prompt: Sequence[int], vocab_size: int, sampling: Sampling, exempt: int | None = None) -> None:
        self.exempt = exempt
        self.filters = [(FILTERS[name], value) for name, value in sampling.filters()]
        self.counts: np.ndarray | None = None  # (V,): how often each id stands in the repetition window
        self.recent: deque[int] | None = None  # the ids in it, oldest first
        self.window, self.size = sampling.repetition_window, sampling.no_repeat_ngram_size
        if sampling.repetition_penalty != 1 and self.window != 0:
            recent = [*prompt][-self.window :] if self.window else [*prompt]
            self.counts = np.bincount(np.array(recent, np.int64), minlength=vocab_size)
            self.recent = deque(recent) if self.window else None
        self.followers: dict[tuple[int, ...], set[int]] = {}  # n-1 ids -> the ids after them
        self.tail: deque[int] = deque(maxlen=max(self.size - 1, 0))
        for token in prompt if self.size else ():
            self._follow(token)

    def add(self, token: int) -> None:
        """Count the next id."""
        if self.counts is not None:
            self.counts[token] += 1
            if self.recent is not None:
                self.recent.append(token)
                if len(self.recent) > (self.window or 0):
                    self.counts[self.recent.popleft()] -= 1
        if self.size:
            self._follow(token)

    def penalized(self, logits: np.ndarray, penalty: float) -> np.ndarray:
        """(V,) logits, those of ids seen before divided by the penalty where positive and multiplied where negative."""
        if self.counts is None:
            return logits
        seen = np.flatnonzero(self.counts)
        seen = seen[seen != self.exempt] if self.exempt is not None else seen
        values, changed = logits[seen], logits.copy()
        changed[seen] = np.where(values < 0, values * np.float32(penalty), values / np.float32(penalty))
        return changed

    def allowed(self, ids: np.ndarray) -> np.ndarray:
        """(N,) ids without those that would complete an n-gram that the text already holds; all where none is left."""
        banned = self.followers.get(tuple(self.tail)) if self.size else None
        left = ids[~np.isin(ids, [*banned])] if banned else ids
        return left if len(left) else ids

    def _follow(self, token: int) -> None:
        if len(self.tail) == self.size - 1:
            self.followers.setdefault(tuple(self.tail), set()).add(token)
        self.tail.append(token)


def left_to_draw(logits: np.ndarray, sampling: Sampling, history: History) -> tuple[np.ndarray, np.ndarray]:
    """The ids (N,) that every filter leaves, ascending, and their logits (N,); at temperature 0 the likeliest alone.

    Args:
        logits: (V,) float32; -inf marks what may not be drawn, and something may be.
    """
    logits = history.penalized(logits, sampling.repetition_penalty)
    ids = history.allowed(np.flatnonzero(logits > -np.inf))
    logits = logits[ids]
    if sampling.temperature < LEAST_TEMPERATURE:
        first = logits.argmax()
        return ids[first : first + 1], logits[first : first + 1]
    logits = (logits - logits.max()) / np.float32(sampling.temperature)  # moved to 0 first: nothing overflows
    for keep, value in history.filters:
        kept = keep(logits, value)
        ids, logits = ids[kept], logits[kept]
    return ids, logits


def choose(logits: np.ndarray, sampling: Sampling, history: History, number: float) -> int:
    """The next id, by logits (V,) as for `left_to_draw` and a uniform number as for `draw`."""
    ids, logits = left_to_draw(logits, sampling, history)
    return int(ids[draw(logits, number)])
