"""A `Transformer` as generation sees it: on any device, for every architecture."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from yinggem.inference.generation import LogitsStep
from yinggem.inference.sampling import Sampling
from yinggem.model.decoding import DecodingStep
from yinggem.model.kv_cache import KVCache
from yinggem.model.transformer import Transformer

PREFILL = 2048  # prompt tokens per forward pass: bounds the memory that a long prompt takes
SLOTS = 256  # positions that the cache has room for at first


class TorchNetwork:
    """Computes with torch, in the types and on the device of the weights.

    Args:
        model: in eval mode.
        reason: why it is not the compiled engine, for people.
    """

    most_rows: int | None = None

    def __init__(self, model: Transformer, reason: str = "") -> None:
        self.model, self.config = model, model.config
        self.about = f"torch on {model.norm.weight.device}{reason and f': {reason}'}"

    def read(self, prompts: np.ndarray) -> "TorchTexts":
        """As `Network.read`."""
        return TorchTexts(self.model, prompts)

    def draws(self, sampling: Sampling, steps: Sequence[Sequence[LogitsStep]]) -> bool:
        """It does not: the loop draws."""
        return False

    def draw(
        self,
        prompts: np.ndarray,
        max_new_tokens: int,
        sampling: Sampling,
        seeds: Sequence[int],
        steps: Sequence[Sequence[LogitsStep]],
        end: int | None = None,
    ) -> Iterator[Sequence[int]]:
        """Never called."""
        raise NotImplementedError

    @torch.inference_mode()
    def nats(self, ids: np.ndarray) -> np.ndarray:
        """As `Network.nats`."""
        tokens = torch.from_numpy(ids.astype(np.int64)).to(self.model.norm.weight.device)
        found: np.ndarray = self.model.loss(tokens[None, :-1], tokens[None, 1:], "none")[0].cpu().double().numpy()
        return found


class TorchTexts:
    """As `Texts`: a cache, and the model laid out for one token of each row."""

    @torch.inference_mode()
    def __init__(self, model: Transformer, prompts: np.ndarray) -> None:
        weight, rows = model.norm.weight, torch.from_numpy(prompts.astype(np.int64))
        same = bool((prompts == prompts[:1]).all())  # then they run once
        # It grows as far as the text does: many end long before max_new_tokens, or before the window.
        cache = KVCache(model.config, 1 if same else len(rows), weight.device, weight.dtype, slots=SLOTS)
        for part in (rows[:1] if same else rows).to(weight.device).split(PREFILL, dim=1):
            logits = model.next_logits(part, cache)
        if same:
            cache.expand(len(rows))
        self.logits: np.ndarray = logits.expand(len(rows), -1).cpu().numpy()
        self.device, self.decode = weight.device, DecodingStep(model, cache)

    @torch.inference_mode()
    def add(self, tokens: Sequence[int]) -> None:
        """As `Texts.add`."""
        self.logits = self.decode(torch.tensor(tokens, device=self.device)).cpu().numpy()

    def close(self) -> None:
        """Nothing is to do: the cache goes with this object."""
