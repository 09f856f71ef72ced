"""Text from a model: the one loop that generates, and what it asks of a model, whatever computes it."""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Protocol

import numpy as np

from yinggem.common.errors import UserError
from yinggem.inference.draws import uniform
from yinggem.inference.filters import History, choose
from yinggem.inference.sampling import Sampling
from yinggem.model.config import ModelConfig

NOTHING = -1  # in the place of an id: the row has ended, for nothing may be drawn


class Texts(Protocol):
    """Texts that a network has begun, one a row.

    Attributes:
        logits: (B, V) float32, of the tokens that follow.
    """

    logits: np.ndarray

    def add(self, tokens: Sequence[int]) -> None:
        """Go on by one id each: `logits` are those after them."""

    def close(self) -> None:
        """They end here: what they took is free."""


class Network(Protocol):
    """A model that predicts tokens. It is computed by torch (`TorchNetwork`) or in C (`EngineNetwork`).

    Attributes:
        most_rows: how many texts it can continue side by side; None: as many as there is memory for.
        about: which engine this is, for people.
    """

    config: ModelConfig
    most_rows: int | None
    about: str

    def read(self, prompts: np.ndarray) -> Texts:
        """Begin texts with ids (B, T), T >= 1."""

    def draws(self, sampling: Sampling, steps: "Sequence[Sequence[LogitsStep]]") -> bool:
        """Whether `draw` knows these settings and the steps of every row, and is faster than drawing here."""

    def draw(
        self,
        prompts: np.ndarray,
        max_new_tokens: int,
        sampling: Sampling,
        seeds: Sequence[int],
        steps: "Sequence[Sequence[LogitsStep]]",
        end: int | None = None,
    ) -> Iterator[Sequence[int]]:
        """What `generate` yields, drawn by the network itself."""

    def nats(self, ids: np.ndarray) -> np.ndarray:
        """(N - 1,) float64, of every one of ids (N,) but the first, by those before it."""


class LogitsStep(Protocol):
    """What changes the logits of one row before the penalty and the filters, and follows its text for that."""

    def apply(self, logits: np.ndarray) -> np.ndarray:
        """Logits (V,) -> logits (V,), with -inf for what may not be drawn; where that is everything, the row ends."""

    def add(self, token: int) -> None:
        """The next id."""


def generate(
    network: Network,
    prompts: np.ndarray,
    max_new_tokens: int,
    sampling: Sampling,
    seeds: Sequence[int],
    steps: Sequence[Sequence[LogitsStep]] = (),
    end: int | None = None,
) -> Iterator[Sequence[int]]:
    """Continue each row of `prompts` (B, T), T >= 1, giving the next ids (B,) as they are made.

    Args:
        seeds: one per row; a row's text depends on its own prompt and seed only, whatever the engine.
        steps: of each row, applied in their order, before everything that `sampling` asks for. Where they leave a row
            nothing to draw, NOTHING takes the place of its ids from then on; when all have ended, so does generation.
        end: the id of the end of a document, which no penalty touches; going on behind it is up to the caller.

    Raises:
        UserError: the prompt is empty, max_new_tokens is below 1, or the model's output is not finite.
    """
    if max_new_tokens < 1:
        raise UserError(f"max_new_tokens must be at least 1, not {max_new_tokens}.")
    if not prompts.shape[1]:
        raise UserError("The prompt is empty; generation needs one token to start from.")
    steps = steps or [()] * len(prompts)
    draw = network.draw if network.draws(sampling, steps) else partial(_generate, network)
    return draw(prompts, max_new_tokens, sampling, seeds, steps, end)


def _generate(
    network: Network,
    prompts: np.ndarray,
    max_new_tokens: int,
    sampling: Sampling,
    seeds: Sequence[int],
    steps: Sequence[Sequence[LogitsStep]],
    end: int | None,
) -> Iterator[list[int]]:
    histories = [History(prompt.tolist(), network.config.vocab_size, sampling, end) for prompt in prompts]
    texts, tokens = network.read(prompts), [0] * len(prompts)
    try:
        for position in range(max_new_tokens):
            if position:
                texts.add([max(token, 0) for token in tokens])
            check_finite(texts.logits)
            for row, seed in enumerate(seeds):
                if tokens[row] != NOTHING:
                    number = uniform(seed, position)
                    tokens[row] = next_token(texts.logits[row], steps[row], sampling, histories[row], number)
            yield tokens.copy()
            if all(token == NOTHING for token in tokens):
                return
    finally:
        texts.close()


def next_token(
    logits: np.ndarray, steps: Sequence[LogitsStep], sampling: Sampling, history: History, number: float
) -> int:
    """The next id of a row, of which its steps and its history then know; NOTHING where there is none."""
    for step in steps:
        logits = step.apply(logits)
    if steps and logits.max() == -np.inf:
        return NOTHING
    token = choose(logits, sampling, history, number)
    history.add(token)
    for step in steps:
        step.add(token)
    return token


def check_finite(logits: np.ndarray) -> None:
    """UserError where logits (..., V) hold NaN or no number at all."""
    if not np.isfinite(logits.max(-1)).all():  # NaN in a row makes its maximum NaN
        raise UserError("The model's output is NaN or infinite: its training diverged; use another checkpoint.")
