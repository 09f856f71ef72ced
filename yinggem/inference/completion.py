"""Generation for people: a prompt of text in, pieces of text out, ended by a stop string or a length."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from yinggem.common.errors import UserError
from yinggem.inference.generation import LogitsStep, Network, generate
from yinggem.inference.sampling import Sampling
from yinggem.text.marks import PLACE
from yinggem.text.tokenizer import StreamDecoder, Tokenizer

BETWEEN = "\n\n"  # two documents, where generation goes on


class StopStrings:
    """Passes text on as it comes, up to the stop string that is complete first; that one is not passed on.

    What may still become a stop string is held back, so the outcome does not depend on how the text is cut.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        if not all(stops):
            raise UserError("A stop string must not be empty; leave --stop out to generate to the full length.")
        self.stops, self.held, self.found = stops, "", False

    def push(self, text: str) -> str:
        """The part of the text so far that is certain and has not been returned before."""
        if self.found:
            return ""
        text = self.held + text
        starts = [(text.find(stop) + len(stop), text.find(stop)) for stop in self.stops if stop in text]
        if starts:
            self.found, self.held = True, ""
            return text[: min(starts)[1]]
        keep = max((self._overlap(text, stop) for stop in self.stops), default=0)
        self.held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def finish(self) -> str:
        """What was held back, now that no more text comes."""
        held, self.held = self.held, ""
        return held

    @staticmethod
    def _overlap(text: str, stop: str) -> int:
        """Length of the longest end of `text` that begins `stop`."""
        return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:n])), 0)


class Completion:
    """One sample as it grows: its ids, its text, and why it ended (finish_reason "length", "stop", "end" or "copy").

    "end" is the end of a document or of a turn, "copy" where nothing could follow without a copy of the training text
    that is too long.

    Args:
        ignore_end: go on with another document where one ends; a blank line stands between the two.
        begun: as for `StreamDecoder`.
    """

    def __init__(
        self, tokenizer: Tokenizer, seed: int, stops: Sequence[str], ignore_end: bool = False, begun: bytes = b""
    ) -> None:
        self.seed, self.tokens, self.text = seed, list[int](), ""
        self.finish_reason: str | None = None
        self._end, self._ignore_end, self._before = tokenizer.end_id, ignore_end, ""
        self._decoder, self._stops = StreamDecoder(tokenizer, begun), StopStrings(stops)

    def push(self, token: int) -> str:
        """Take the next id and return the text that is certain by now."""
        self.tokens.append(token)
        if token == self._end and not self._ignore_end:
            return self.finish("end")
        if token == self._end:
            piece, self._before = self._stops.push(self._decoder.finish()), BETWEEN
        else:
            piece, self._before = self._stops.push(self._before + self._decoder.push(token)), ""
        if self._stops.found:
            self.finish_reason = "stop"
        self.text += piece
        return piece

    def finish(self, reason: str = "length") -> str:
        """No more ids come, for this reason: return the rest of the text."""
        piece = self._stops.push(self._decoder.finish())
        self.finish_reason = "stop" if self._stops.found else reason
        piece += self._stops.finish()
        self.text += piece
        return piece

    def to_dict(self) -> dict[str, Any]:
        """Plain data for a record."""
        return {"text": self.text, "tokens": self.tokens, "seed": self.seed, "finish_reason": self.finish_reason}


def complete(
    network: Network,
    tokenizer: Tokenizer,
    prompt: str,
    max_new_tokens: int,
    sampling: Sampling,
    seeds: Sequence[int],
    stops: Sequence[str] = (),
    steps: Sequence[Sequence[LogitsStep]] = (),
    ignore_end: bool = False,
) -> Iterator[tuple[int, str, Completion]]:
    """Continue `prompt` once per seed, giving (number of the sample, new text, the sample so far).

    As many samples as the network has room for grow side by side; the others follow. The prompt begins a document
    where the model knows them, and the sample ends with it unless `ignore_end`. An empty one is else continued from a
    newline, or from id 0 where the tokenizer has none.

    Args:
        steps: those of `generate`, for each seed.

    Raises:
        UserError: the tokenizer cannot encode the prompt (at once), or as `generate` (while it runs).
    """
    samples = [Completion(tokenizer, seed, stops, ignore_end) for seed in seeds]
    ids = prompt_ids(tokenizer, prompt)
    most = network.most_rows or len(samples)

    def run() -> Iterator[tuple[int, str, Completion]]:
        for first in range(0, len(samples), most):
            some = slice(first, first + most)
            prompts = np.array([ids] * len(samples[some]))
            end = tokenizer.end_id
            rounds = generate(network, prompts, max_new_tokens, sampling, seeds[some], steps[some], end)
            for number, piece, sample in advance(samples[some], rounds):
                yield first + number, piece, sample

    return run()


def advance(samples: list[Completion], steps: Iterator[Sequence[int]]) -> Iterator[tuple[int, str, Completion]]:
    """Give each step's ids to the samples, one id each, until all have ended; yields as `complete`.

    An id below 0 says that nothing may follow.
    """
    for tokens in steps:
        for number, (sample, token) in enumerate(zip(samples, tokens, strict=True)):
            if sample.finish_reason is None:
                yield number, sample.push(token) if token >= 0 else sample.finish("copy"), sample
        if all(sample.finish_reason for sample in samples):
            return
    for number, sample in enumerate(samples):
        if sample.finish_reason is None:
            yield number, sample.finish(), sample


def prompt_ids(tokenizer: Tokenizer, prompt: str) -> list[int]:
    """Ids to start from, at least one. Where the model knows documents, the prompt begins one; a turn follows it."""
    if tokenizer.end_id is not None:
        return [tokenizer.end_id, *tokenizer.encode(opening(tokenizer, prompt)), *turn(tokenizer)]
    if prompt:
        return tokenizer.encode(prompt)
    try:
        return tokenizer.encode("\n")
    except UserError:
        return [0]


def opening(tokenizer: Tokenizer, prompt: str) -> str:
    """The text that a prompt stands for: itself, or the template of the pairs that the model learnt with it."""
    return prompt if tokenizer.template is None else tokenizer.template.replace(PLACE, prompt)


def turn(tokenizer: Tokenizer) -> list[int]:
    """The ids behind a prompt, where a completion begins."""
    return [] if tokenizer.turn_id is None else [tokenizer.turn_id]


def complete_text(
    network: Network,
    tokenizer: Tokenizer,
    prompt: str,
    max_new_tokens: int,
    sampling: Sampling,
    seed: int,
    steps: Sequence[LogitsStep] = (),
) -> str:
    """One sample's text without its prompt, all at once."""
    pieces = complete(network, tokenizer, prompt, max_new_tokens, sampling, [seed], (), [steps])
    return "".join(piece for _, piece, _ in pieces)
