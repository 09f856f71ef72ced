"""Text from a model: filtering the logits, drawing a token, and the one loop that generates.

The filters that know nothing of the text before are in `yinggem.inference.sampling`, beside their settings. The order
of all of them is that of the logits processors of transformers.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Protocol

import torch
from torch import Generator, Tensor

from yinggem.common.errors import UserError
from yinggem.inference.sampling import Sampling
from yinggem.model.decoding import DecodingStep
from yinggem.model.kv_cache import KVCache
from yinggem.model.transformer import Transformer

PREFILL = 2048  # prompt tokens per forward pass: bounds the memory that a long prompt takes
SLOTS = 256  # positions that the cache has room for at first
LEAST_TEMPERATURE = 1e-5  # below it the likeliest token is certain in float32
NOTHING = -1  # in the place of an id: the row has ended, for nothing may be drawn


class LogitsStep(Protocol):
    """What changes the logits before the penalty and the filters, and follows the text of every row for that."""

    def apply(self, logits: Tensor) -> Tensor:
        """Logits (B, V) -> logits (B, V), with -inf for what may not be drawn; a row of nothing else ends."""

    def add(self, tokens: Tensor) -> None:
        """The next ids (B,); those of rows that have ended mean nothing, but are ids."""


def penalize_repetition(logits: Tensor, seen: Tensor, penalty: float) -> Tensor:
    """Divide positive and multiply negative logits by `penalty` where `seen` (B, V) is true."""
    return torch.where(seen, torch.where(logits < 0, logits * penalty, logits / penalty), logits)


def ban(logits: Tensor, banned: Sequence[set[int]]) -> Tensor:
    """Forbid the ids of each row's set; a row that would have no id left stays as it is."""
    logits = logits.clone()
    for number, ids in enumerate(banned):
        if ids:
            row = logits[number].index_fill(0, torch.tensor(list(ids), device=logits.device), -torch.inf)
            if bool(row.amax() > -torch.inf):
                logits[number] = row
    return logits


def scale_temperature(logits: Tensor, temperature: float) -> Tensor:
    """Divide by the temperature; the largest logit is moved to 0 first, so that nothing overflows."""
    return (logits - logits.amax(-1, keepdim=True)) / temperature


class History:
    """What the filters need to know of the ids so far, kept up to date in constant time per token.

    Args:
        prompt: (B, T) ids; they count as seen.
        exempt: an id that counts as unseen: the end of a document, which every text begins with.
    """

    def __init__(self, prompt: Tensor, vocab_size: int, sampling: Sampling, exempt: int | None = None) -> None:
        self.exempt = exempt
        self.counts: Tensor | None = None  # (B, V): how often each id stands in the repetition window
        self.recent: deque[Tensor] | None = None  # the (B, 1) ids in it, oldest first
        self.window, self.size = sampling.repetition_window, sampling.no_repeat_ngram_size
        if sampling.repetition_penalty != 1 and self.window != 0:
            recent = prompt[:, -self.window :] if self.window else prompt
            self.counts = torch.zeros(len(prompt), vocab_size, dtype=torch.int32, device=prompt.device)
            self.counts.scatter_add_(1, recent, torch.ones_like(recent, dtype=torch.int32))
            self.recent = deque(recent.split(1, dim=1)) if self.window else None
        self.followers: list[dict[tuple[int, ...], set[int]]] = [{} for _ in prompt]  # n-1 ids -> the ids after them
        self.tails: list[deque[int]] = [deque(maxlen=max(self.size - 1, 0)) for _ in prompt]
        if self.size:
            for row, ids in enumerate(prompt.tolist()):
                for token in ids:
                    self._follow(row, token)

    def add(self, tokens: Tensor) -> None:
        """Count the next ids (B,)."""
        if self.counts is not None:
            column = tokens[:, None]
            one = torch.ones_like(column, dtype=torch.int32)
            self.counts.scatter_add_(1, column, one)
            if self.recent is not None:
                self.recent.append(column)
                if len(self.recent) > (self.window or 0):
                    self.counts.scatter_add_(1, self.recent.popleft(), -one)
        if self.size:
            for row, token in enumerate(tokens.tolist()):
                self._follow(row, token)

    def seen(self) -> Tensor | None:
        """(B, V) booleans: which ids stand in the repetition window; None where no penalty asks."""
        if self.counts is None:
            return None
        seen = self.counts > 0
        if self.exempt is not None:
            seen[:, self.exempt] = False
        return seen

    def banned(self) -> list[set[int]]:
        """For each row the ids that would complete an n-gram it already holds."""
        return [rows.get(tuple(tail), set()) for rows, tail in zip(self.followers, self.tails, strict=True)]

    def _follow(self, row: int, token: int) -> None:
        tail = self.tails[row]
        if len(tail) == self.size - 1:
            self.followers[row].setdefault(tuple(tail), set()).add(token)
        tail.append(token)


def apply_filters(logits: Tensor, sampling: Sampling, history: History) -> Tensor:
    """Every filter that `sampling` switches on, in its order; at temperature 0 those before the temperature."""
    seen = history.seen()
    if seen is not None:
        logits = penalize_repetition(logits, seen, sampling.repetition_penalty)
    if history.size:
        logits = ban(logits, history.banned())
    if sampling.temperature < LEAST_TEMPERATURE:
        return logits
    logits = scale_temperature(logits, sampling.temperature)
    for keep, value in sampling.filters():
        logits = keep(logits, value)
    return logits


def sample(logits: Tensor, generators: Sequence[Generator]) -> Tensor:
    """Draw one id per row (B,) from logits (B, V), row k with generator k alone.

    Inverse transform sampling: the first id up to which the probabilities sum to more than a uniform number. In float64
    rounding moves that number across a boundary about once in a million tokens, so a row draws the same whatever else
    is in its batch. It runs on the CPU: some devices (Apple's MPS) have no float64, and the generators are there too.
    """
    mass = logits.softmax(-1).cpu().cumsum(-1, dtype=torch.float64)
    draws = [torch.rand(1, dtype=mass.dtype, generator=generator) for generator in generators]
    total = mass[:, -1:]
    below = torch.nextafter(total, torch.zeros_like(total))  # past the last id that may be drawn there is nothing
    return torch.searchsorted(mass, (torch.stack(draws) * total).minimum(below), right=True)[:, 0].to(logits.device)


@torch.inference_mode()
def generate(
    model: Transformer,
    prompt: Tensor,
    max_new_tokens: int,
    sampling: Sampling,
    seeds: Sequence[int],
    steps: Sequence[LogitsStep] = (),
    end: int | None = None,
) -> Iterator[Tensor]:
    """Continue each row of `prompt` (B, T), T >= 1, yielding the next ids (B,) as they are made.

    Args:
        seeds: one per row; a row's text depends on its own prompt and seed only.
        steps: applied in their order, before everything that `sampling` asks for. Where they leave a row nothing to
            draw, NOTHING takes the place of its ids from then on; when all rows have ended, so does generation.
        end: the id of the end of a document, which no penalty touches; going on behind it is up to the caller.

    Raises:
        UserError: the prompt is empty, max_new_tokens is below 1, or the model's output is not finite.
    """
    if max_new_tokens < 1:
        raise UserError(f"max_new_tokens must be at least 1, not {max_new_tokens}.")
    if not prompt.size(1):
        raise UserError("The prompt is empty; generation needs one token to start from.")
    generators = [Generator().manual_seed(seed) for seed in seeds]
    history = History(prompt, model.config.vocab_size, sampling, end)
    cache, logits = _prefill(model, prompt)
    decode, ended = DecodingStep(model, cache), torch.zeros(len(prompt), dtype=torch.bool, device=prompt.device)
    for number in range(max_new_tokens):
        logits, ended = _apply(steps, logits, ended)
        tokens = _next_tokens(logits, sampling, history, generators)
        yield tokens.masked_fill(ended, NOTHING) if steps else tokens
        if number + 1 == max_new_tokens or (steps and bool(ended.all())):
            return
        history.add(tokens)
        for step in steps:
            step.add(tokens)
        logits = decode(tokens)


def _apply(steps: Sequence[LogitsStep], logits: Tensor, ended: Tensor) -> tuple[Tensor, Tensor]:
    """The logits after `steps`, and which rows have ended (B,); those keep logits that something can be drawn from."""
    if not bool(logits.amax(-1).isfinite().all()):  # NaN in a row makes its maximum NaN
        raise UserError("The model's output is NaN or infinite: its training diverged; use another checkpoint.")
    whole = logits
    for step in steps:
        logits = step.apply(logits)
    if steps:
        ended = ended | logits.amax(-1).isneginf()
        logits = torch.where(ended[:, None], whole, logits)
    return logits, ended


def _next_tokens(logits: Tensor, sampling: Sampling, history: History, generators: Sequence[Generator]) -> Tensor:
    """The next ids (B,)."""
    logits = apply_filters(logits, sampling, history)
    return logits.argmax(-1) if sampling.temperature < LEAST_TEMPERATURE else sample(logits, generators)


def _prefill(model: Transformer, prompt: Tensor) -> tuple[KVCache, Tensor]:
    """A cache that has seen `prompt` (B, T), and the logits (B, V) after it. Rows that are all the same run once."""
    weight, same = model.norm.weight, bool((prompt == prompt[:1]).all())
    rows = prompt[:1] if same else prompt
    # It grows as far as the text does: many end long before max_new_tokens, or before the window.
    cache = KVCache(model.config, len(rows), weight.device, weight.dtype, slots=SLOTS)
    for part in rows.split(PREFILL, dim=1):
        logits = model.next_logits(part, cache)
    if same:
        cache.expand(len(prompt))
    return cache, logits.expand(len(prompt), -1)
