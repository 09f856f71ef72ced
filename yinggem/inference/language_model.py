"""A trained model for Python programs: it generates, streams and scores text. `yinggem.load()` makes one."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from yinggem.common.errors import UserError
from yinggem.inference.completion import complete
from yinggem.inference.copying import TrainingText
from yinggem.inference.evaluation import Evaluation, trained_context_length
from yinggem.inference.files.stored_model import read_model
from yinggem.inference.generation import LogitsStep, Network
from yinggem.inference.memory_step import memory_steps
from yinggem.inference.networks.opening import open_network
from yinggem.inference.sampling import MAX_NEW_TOKENS, sampling_for
from yinggem.inference.starter import memory_of
from yinggem.memory.ngram_memory import NgramMemory
from yinggem.model.config import ModelConfig
from yinggem.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from yinggem.model.transformer import Transformer


class ScoredToken(NamedTuple):
    """A token of a text and how surprising it was, in nats, after those before it."""

    text: str
    nats: float


@dataclass(frozen=True)
class Score:
    """How well a text was predicted: every token after the first, which nothing precedes.

    Attributes:
        nats: the sum over `tokens`.
        bits_per_byte: comparable across tokenizers.
    """

    nats: float
    bits_per_byte: float
    tokens: list[ScoredToken]


class LanguageModel:
    """A model and the tokenizer it was trained with.

    Args:
        network: what computes it.
        context_length: tokens per window in which a text is scored.
        memory: what counting knows of the training text; None: the network is alone.
        load_model: makes `model`, when it is first asked for.
    """

    def __init__(
        self,
        network: Network,
        tokenizer: Tokenizer,
        context_length: int,
        memory: NgramMemory | None = None,
        load_model: "Callable[[], Transformer] | None" = None,
    ) -> None:
        self._load_model = load_model
        self.network, self.tokenizer, self.context_length, self.memory = network, tokenizer, context_length, memory
        self._training: TrainingText | None = None  # read once it is needed

    @classmethod
    def from_checkpoint(
        cls, path: str | Path, device: str | None = None, quantization: str | None = None
    ) -> "LanguageModel":
        """Load a checkpoint.

        Args:
            device: "cpu", "cuda" ...; None is the fastest there is for a model of this size.
            quantization: "int8" or "int4" for smaller and faster weights; None as they are in the file.

        Raises:
            UserError: as `read_model` and `open_network`.
        """
        stored = read_model(path)
        network = open_network(stored, device, quantization)

        def load() -> "Transformer":
            from yinggem.inference.checkpoint import load_model

            return load_model(path, device or "cpu", quantization=quantization, stored=stored)[0]

        return cls(network, stored.tokenizer, trained_context_length(stored.entry), memory_of(stored), load)

    @cached_property
    def model(self) -> "Transformer":
        """The network as a torch module in eval mode, to look into; torch is imported when it is first asked for."""
        from yinggem.inference.networks.torch_network import TorchNetwork

        if isinstance(self.network, TorchNetwork):
            return self.network.model
        if self._load_model is None:
            raise UserError("This network is not of a checkpoint, so that there is no torch model to look into.")
        return self._load_model()

    @property
    def config(self) -> ModelConfig:
        """The architecture."""
        return self.network.config

    def generate(
        self,
        prompt: str = "",
        *,
        max_new_tokens: int = MAX_NEW_TOKENS,
        seed: int = 0,
        stop: Sequence[str] = (),
        max_copy: int | str | None = None,
        memory: float | None = None,
        generated: Sequence[tuple[int, int]] = (),
        ignore_end: bool = False,
        **sampling: Any,
    ) -> str:
        """The text that follows `prompt`, as `yinggem generate` prints it: the same settings give the same text.

        Args:
            stop: texts before which it ends.
            max_copy: no stretch of more words than this that ends in the text stands in the training text; "40c" are
                40 characters. The text ends where nothing else can follow. None: no limit.
            memory: 0 is the network alone, 1 as fitted to what counting says, 2 the most; None: 1 if there is one.
            generated: stretches [from, to) of the prompt, in characters, that a model wrote: they are not counted.
            ignore_end: go on with another document where one ends, rather than stop.
            sampling: temperature, top_k, top_p and the other fields of `yinggem.inference.sampling.Sampling`.

        Raises:
            UserError: a setting is out of range; the tokenizer cannot encode the prompt; `max_copy` without a memory.
        """
        how: dict[str, Any] = {"max_copy": max_copy, "memory": memory, "generated": generated, **sampling}
        how["ignore_end"] = ignore_end
        return "".join(self.stream(prompt, max_new_tokens=max_new_tokens, seed=seed, stop=stop, **how))

    def stream(
        self,
        prompt: str = "",
        *,
        max_new_tokens: int = MAX_NEW_TOKENS,
        seed: int = 0,
        stop: Sequence[str] = (),
        max_copy: int | str | None = None,
        memory: float | None = None,
        generated: Sequence[tuple[int, int]] = (),
        ignore_end: bool = False,
        **sampling: Any,
    ) -> Iterator[str]:
        """The pieces of the text that `generate` returns, each as soon as it is made."""
        if isinstance(stop, str):
            raise UserError(f"stop must be a list of texts, not {stop!r}; write stop=[{stop!r}].")
        settings = sampling_for(self.tokenizer.name, **sampling)
        if max_copy is not None and self._training is None:
            self._training = TrainingText(self.memory, self.tokenizer)
        steps: list[LogitsStep] = [*memory_steps(self.memory, self.tokenizer, prompt, 1, memory, generated)[0]]
        steps += self._training.steps(max_copy, [prompt])[0] if self._training else []
        limits = stop, [steps], ignore_end
        pieces = complete(self.network, self.tokenizer, prompt, max_new_tokens, settings, [seed], *limits)
        return (piece for _, piece, _ in pieces if piece)

    def score(self, text: str) -> Score:
        """How well the model predicts a text, with its memory if it has one; the sums are those of `yinggem evaluate`.

        Where the model knows documents, the text is one: its first token is predicted as well, and its end.

        Raises:
            UserError: the tokenizer cannot encode the text, or makes less than two tokens of it.
        """
        ids, end = self.tokenizer.encode_array(text), self.tokenizer.end_id
        if end is not None and len(ids):
            ids = np.concatenate([[end], ids, [end]]).astype(ids.dtype)
        if len(ids) < 2:
            raise UserError(f"A text of {len(ids)} tokens holds nothing to predict; score a longer one.")
        nats = self.nats_of(ids.astype(np.int64)).tolist()
        size = int(self.tokenizer.token_byte_lengths[ids[1:]].sum(dtype=np.int64))
        tokens = [
            ScoredToken(self.tokenizer.decode([token]), value)
            for token, value in zip(ids[1:].tolist(), nats, strict=True)
        ]
        return Score(sum(nats), Evaluation(sum(nats), len(nats), size).bits_per_byte, tokens)

    def nats_of(self, ids: np.ndarray) -> np.ndarray:
        """(N - 1,) float64: of every one of ids (N,) but the first."""
        found = []
        for start in range(0, len(ids) - 1, self.context_length):
            row = ids[start : start + self.context_length + 1]
            nats = self.network.nats(row)
            found.append(nats if self.memory is None else self.memory.score(row[None], nats[None])[1][0])
        return np.concatenate(found)
