"""Completions: from a checked request to samples, and from their pieces to what is sent back."""

import asyncio
import json
import secrets
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import numpy as np

from yinggem.common.errors import UserError
from yinggem.inference.completion import prompt_ids
from yinggem.inference.generation import LogitsStep
from yinggem.inference.memory_step import MemoryStep, memory_steps, typed_ids
from yinggem.inference.token_log import LoggedToken, legacy_logprobs, unfinished
from yinggem.serving.batcher import Work
from yinggem.serving.body import CompletionBody, Limits
from yinggem.serving.sample import Piece, Prompt, Sample, Wish
from yinggem.serving.served_model import ServedModel
from yinggem.text.tokenizer import Tokenizer

# In the protocol's words: a text that comes to its end stops, and what may not be repeated is filtered.
REASONS = {"end": "stop", "copy": "content_filter"}


class Inbox:
    """What the batcher's thread tells an event loop: pieces of text, or an error."""

    def __init__(self) -> None:
        self._loop, self._queue = asyncio.get_running_loop(), asyncio.Queue[Piece | Exception]()

    def put(self, event: Piece | Exception) -> None:
        """From any thread."""
        try:
            self._loop.call_soon_threadsafe(self._queue.put_nowait, event)
        except RuntimeError:  # the loop has ended, and whoever listened with it
            return

    async def take(self) -> list[Piece]:
        """All that has come, at least one.

        Raises:
            Exception: that was put.
        """
        events = [await self._queue.get()]
        while not self._queue.empty():
            events.append(self._queue.get_nowait())
        pieces = [event for event in events if isinstance(event, Piece)]
        error = next((event for event in events if isinstance(event, Exception)), None)
        if error is not None:
            raise error
        return pieces


class CompletionJob:
    """One request, as samples of a model. Making it takes as long as tokenizing its prompts.

    Args:
        name: of the model, as it is told.

    Attributes:
        sent: whether all was streamed.

    Raises:
        UserError: a prompt cannot be encoded or is too long; memory or max_copy cannot be had.
    """

    def __init__(self, body: CompletionBody, model: ServedModel, limits: Limits, name: str, inbox: Inbox) -> None:
        self.body, self.inbox, self.sent = body, inbox, False
        self.head = {
            "id": f"cmpl-{secrets.token_hex(12)}",
            "object": "text_completion",
            "created": int(time.time()),
            "model": name,
        }
        self.prompts = [_prompt(one, model.tokenizer, body, limits) for one in body.prompts]
        self.samples = self._make_samples(model)
        self.work = Work(self.samples, inbox.put, limits.seconds)

    @property
    def needs_model(self) -> bool:
        """Whether anything is to be computed."""
        return self.body.max_tokens > 0 or (self.body.echo and self.body.logprobs is not None)

    def finish_without_model(self) -> None:
        """Give back what was sent."""
        for sample in self.samples:
            sample.finish()

    def _make_samples(self, model: ServedModel) -> list[Sample]:
        body, texts = self.body, [prompt.text for prompt in self.prompts]
        memory_steps(model.memory, model.tokenizer, "", 0, body.memory)  # the checks alone
        share = float(model.memory is not None) if body.memory is None else float(body.memory)
        ranked = body.best_of > body.n
        wish = Wish(
            body.sampling, body.max_tokens, body.stops, body.echo, body.logprobs, share, ranked, body.ignore_end
        )
        first = secrets.randbits(53) if body.seed is None else body.seed
        tell = self.inbox.put
        limits = [steps for text in texts for steps in model.copy_steps(body.max_copy, [text] * body.best_of)]
        samples = []
        for number, steps in enumerate(limits):
            prompt, seed = self.prompts[number // body.best_of], first + number % body.best_of
            mixing: list[LogitsStep] = []
            if model.memory is not None and share:
                mixing = [MemoryStep(model.memory, prompt.ids, prompt.typed, share)]
            scorer = model.scorer if mixing else None
            samples.append(Sample(number, model.tokenizer, prompt, wish, seed, scorer, mixing, steps, tell))
        return samples

    async def whole(self) -> dict[str, Any]:
        """The response, once all is made.

        Raises:
            Exception: why it was not.
        """
        texts, tokens = ["" for _ in self.samples], [list[LoggedToken]() for _ in self.samples]
        reasons: dict[int, str] = {}
        while len(reasons) < len(self.samples):
            for piece in await self.inbox.take():
                texts[piece.index] += piece.text
                tokens[piece.index] += piece.tokens
                if piece.finish_reason:
                    reasons[piece.index] = piece.finish_reason
        choices = []
        for index, number in enumerate(self._best()):
            choices.append(self._choice(index, number, texts[number], tokens[number], reasons[number]))
        return self.head | {"choices": choices, "usage": self._usage()}

    async def events(self, failure: Callable[[Exception], dict[str, Any]]) -> AsyncIterator[str]:
        """The response as server-sent events, as it is made.

        Args:
            failure: what is sent of an error.
        """
        left, extra = len(self.samples), {"usage": None} if self.body.include_usage else {}
        try:
            while left:
                chunks = []
                for piece in await self.inbox.take():
                    choice = self._choice(piece.index, piece.index, piece.text, piece.tokens, piece.finish_reason)
                    chunks.append(event(self.head | {"choices": [choice]} | extra))
                    left -= bool(piece.finish_reason)
                yield "".join(chunks)
        except Exception as error:
            yield event({"error": failure(error)})
            return
        self.sent = True
        if self.body.include_usage:
            yield event(self.head | {"choices": [], "usage": self._usage()})
        yield "data: [DONE]\n\n"

    def _best(self) -> list[int]:
        """The numbers of the samples that are sent back, in their order."""
        size, found = self.body.best_of, list[int]()
        for first in range(0, len(self.samples), size):
            numbers = [*range(first, first + size)]
            if size > self.body.n:
                numbers.sort(key=lambda number: -self.samples[number].mean_logprob)
            found += numbers[: self.body.n]
        return found

    def _choice(
        self, index: int, number: int, text: str, tokens: list[LoggedToken], reason: str | None
    ) -> dict[str, Any]:
        return {
            "index": index,
            "text": text,
            "logprobs": None if self.body.logprobs is None else legacy_logprobs(tokens),
            "finish_reason": REASONS.get(reason or "", reason),
            "seed": self.samples[number].seed,
        }

    def _usage(self) -> dict[str, int]:
        read = sum(len(prompt.ids) - prompt.unseen % len(prompt.ids) if prompt.text else 0 for prompt in self.prompts)
        drawn = sum(sample.drawn for sample in self.samples)
        return {"prompt_tokens": read, "completion_tokens": drawn, "total_tokens": read + drawn}


def event(content: dict[str, Any]) -> str:
    """A server-sent event."""
    return f"data: {json.dumps(content, ensure_ascii=False, separators=(',', ':'))}\n\n"


def _prompt(given: str | list[int], tokenizer: Tokenizer, body: CompletionBody, limits: Limits) -> Prompt:
    if isinstance(given, str):
        ids, text, begun = prompt_ids(tokenizer, given), given, b""
        typed = typed_ids(tokenizer, text, ids if text else [], body.generated)
        unseen = int(tokenizer.end_id is not None) if text and tokenizer.template is None else len(ids)
    else:
        content, begun = tokenizer.decode_bytes(given), unfinished(tokenizer, given)
        ids, text = given, content[: len(content) - len(begun)].decode("utf-8", "replace")
        typed, unseen = np.array(ids, np.int64), 0
    if len(ids) > limits.prompt_tokens:
        raise UserError(f"prompt has {len(ids)} tokens; this server takes up to {limits.prompt_tokens}.")
    return Prompt(ids, unseen, text, begun, typed)
