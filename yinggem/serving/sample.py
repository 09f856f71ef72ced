"""One text of a request as it grows: from logits to the next token, its text and its log-probabilities."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from yinggem.inference.completion import Completion
from yinggem.inference.draws import uniform
from yinggem.inference.filters import History
from yinggem.inference.generation import NOTHING, LogitsStep, check_finite, next_token
from yinggem.inference.sampling import Sampling
from yinggem.inference.token_log import LoggedToken, TokenLog
from yinggem.memory.ngram_memory import NgramMemory
from yinggem.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class Piece:
    """More of a sample's text.

    Attributes:
        index: of the sample in its request.
        finish_reason: that of `Completion` with the last piece.
    """

    index: int
    text: str
    tokens: list[LoggedToken]
    finish_reason: str | None


@dataclass(frozen=True)
class Prompt:
    """What one or several samples begin with.

    Attributes:
        ids: at least one.
        unseen: how many of them stand before the text; all of them where it has no tokens of its own: where it is
            empty, and where a template is around it.
        text: what is sent back with echo.
        begun: the bytes at the end of `ids` that begin a character.
        typed: as `yinggem.inference.memory_step.typed_ids`.
    """

    ids: list[int]
    unseen: int
    text: str
    begun: bytes
    typed: np.ndarray


class PromptScores:
    """The log-probabilities of the tokens of a prompt, in the order in which they stand.

    With a memory they are those of `yinggem evaluate`: all that stands before a token is counted.

    Args:
        memory: one that generates by the mixture of `NgramMemory.score`; None: the network is alone.
        share: of the memory.
    """

    def __init__(self, prompt: Prompt, memory: NgramMemory | None, share: float, log: TokenLog) -> None:
        self.prompt, self.memory, self.share, self.log = prompt, memory, share, log
        self.place = prompt.unseen
        if self.place == 0:
            self.add(prompt.ids[0])  # nothing stands before it

    def take(self, logits: np.ndarray) -> int:
        """The next id, after noting the logits (V,) that stand before it."""
        ids, place = self.prompt.ids, self.place
        if self.memory is not None:
            context = np.array(ids[max(0, place - self.memory.longest) : place])
            typed = self.prompt.typed[:place]
            network = np.exp(logits - logits.max(), dtype=np.float64)
            mixed = self.memory.distribution(network / network.sum(), context, typed, self.share, place)
            logits = np.log(mixed).astype(np.float32)
        self.log.apply(logits)
        return self.add(ids[place])

    def add(self, token: int) -> int:
        """Note a token."""
        self.log.add(token)
        self.place += 1
        return token

    @property
    def left(self) -> bool:
        """Whether there are more."""
        return self.place < len(self.prompt.ids)


@dataclass(frozen=True)
class Wish:
    """How the samples of a request are made.

    Attributes:
        logprobs: how many alternatives are told beside each token; None: no log-probabilities.
        share: of the memory, from 0 to 1.
        ranked: whether the log-probabilities of the samples are compared.
        ignore_end: as `Completion`.
    """

    sampling: Sampling
    max_tokens: int
    stops: Sequence[str]
    echo: bool
    logprobs: int | None
    share: float = 1.0
    ranked: bool = False
    ignore_end: bool = False


class Sample:
    """Makes one text. The batcher hands it the logits after each token and goes on with the id that it gets back.

    Args:
        mixing, limits: the steps of generation before and behind which log-probabilities are taken.
        hear: is told each piece of the text.
    """

    def __init__(
        self, index: int, tokenizer: Tokenizer, prompt: Prompt, wish: Wish, seed: int, memory: NgramMemory | None,
        mixing: Sequence[LogitsStep], limits: Sequence[LogitsStep], hear: Callable[[Piece], None],
    ) -> None:  # fmt: skip
        self.index, self.prompt, self.wish, self.seed, self._hear = index, prompt, wish, seed, hear
        self.completion = Completion(tokenizer, seed, wish.stops, wish.ignore_end, prompt.begun)
        telling = wish.logprobs is not None
        scored = telling and wish.echo and prompt.unseen < len(prompt.ids)
        self.log: TokenLog | None = None
        if telling or wish.ranked:
            before = len(prompt.text) if wish.echo and not scored else 0
            self.log = TokenLog(tokenizer, wish.logprobs or 0, b"" if scored else prompt.begun, before)
        self._scores = PromptScores(prompt, memory, wish.share, self.log) if self.log and scored else None
        self._steps = [*mixing, *([self.log] if self.log else []), *limits]
        self._history = History(prompt.ids, tokenizer.vocab_size, wish.sampling, tokenizer.end_id)
        self._opening = prompt.text if wish.echo else ""  # not sent yet
        self._length, self._before = 0, 0.0  # characters sent; log-probability of the prompt

    @property
    def to_read(self) -> list[int]:
        """The ids that are read at once; where the prompt's log-probabilities are asked for it is gone through."""
        return self.prompt.ids[: max(1, self.prompt.unseen)] if self._scores else self.prompt.ids

    @property
    def drawn(self) -> int:
        """How many tokens were drawn."""
        return len(self.completion.tokens)

    @property
    def mean_logprob(self) -> float:
        """Of its tokens, where they are ranked."""
        return (self.log.total - self._before) / max(1, self.drawn) if self.log else 0.0

    def take(self, logits: np.ndarray) -> int | None:
        """The id that follows, by logits (V,); None where the text has ended.

        Raises:
            UserError: the logits are not finite.
        """
        check_finite(logits)
        if self._scores and self.log and self._scores.left:
            token = self._scores.take(logits)
            self._before = self.log.total
            return token
        if self.wish.max_tokens == 0:
            self._end("length")
            return None
        number = uniform(self.seed, self.drawn)
        token = next_token(logits, self._steps, self.wish.sampling, self._history, number)
        if token == NOTHING:
            self._end("copy")
            return None
        piece = self.completion.push(token)
        if self.completion.finish_reason:
            self._tell(piece, self.completion.finish_reason)
            return None
        if self.drawn == self.wish.max_tokens:
            self._end("length", piece)
            return None
        if piece:
            self._tell(piece, None)
        return token

    def finish(self) -> None:
        """End before anything was drawn."""
        self._end("length")

    def _end(self, reason: str, piece: str = "") -> None:
        piece += self.completion.finish(reason)
        self._tell(piece, self.completion.finish_reason)

    def _tell(self, piece: str, reason: str | None) -> None:
        text, self._opening = self._opening + piece, ""
        self._length += len(text)
        upto = self._length if reason in (None, "stop") else None  # what is behind a stop string is not sent
        told = self.log.take(upto) if self.log and self.wish.logprobs is not None else []
        self._hear(Piece(self.index, text, told, reason))
