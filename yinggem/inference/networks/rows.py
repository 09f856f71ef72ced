"""What the batcher asks of a model: rows, each a text with a position of its own, continued side by side."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np

from yinggem.engine.engine import MAX_ROWS
from yinggem.inference.generation import Network
from yinggem.inference.networks.engine_network import EngineNetwork
from yinggem.model.config import ModelConfig

if TYPE_CHECKING:
    from yinggem.inference.networks.torch_network import TorchNetwork
    from yinggem.model.kv_cache import KVCache


class Rows(Protocol):
    """`yinggem.engine.engine.Engine`, or `TorchRows` where the engine refuses a model."""

    config: ModelConfig
    rows: int

    def reset(self, row: int) -> None:
        """Empty a row."""

    def read(self, row: int, ids: Sequence[int]) -> np.ndarray:
        """Continue a row by ids (T,), T >= 1 -> logits (V,) float32 of what follows."""

    def step(self, rows: Sequence[int], ids: Sequence[int]) -> np.ndarray:
        """Continue each of R different rows by one id -> logits (R, V) float32."""

    def copy(self, source: int, target: int) -> None:
        """Let row `target` be the text of row `source`."""

    def close(self) -> None:
        """Free the memory; nothing else is called afterwards."""


class TorchRows:
    """Rows that torch computes, one after another: each has a cache of its own."""

    def __init__(self, network: "TorchNetwork", rows: int = MAX_ROWS) -> None:
        from yinggem.model.decoding import DecodingStep

        self.config, self.rows, self._model = network.config, rows, network.model
        self._caches: list[KVCache | None] = [None] * rows
        self._step = DecodingStep(network.model, self._new_cache()).model  # laid out once, for one row of any cache

    def reset(self, row: int) -> None:
        """As `Rows.reset`."""
        self._caches[row] = None

    def read(self, row: int, ids: Sequence[int]) -> np.ndarray:
        """As `Rows.read`."""
        import torch

        cache = self._caches[row] = self._caches[row] or self._new_cache()
        with torch.inference_mode():
            tokens = torch.tensor([[*ids]], device=cache.keys.device)
            logits: np.ndarray = self._model.next_logits(tokens, cache)[0].cpu().numpy()
        return logits

    def step(self, rows: Sequence[int], ids: Sequence[int]) -> np.ndarray:
        """As `Rows.step`."""
        import torch

        found = []
        with torch.inference_mode():
            for row, token in zip(rows, ids, strict=True):
                cache = self._caches[row]
                assert cache is not None, "a row is read before it goes on"
                found.append(self._step.next_logits(torch.tensor([[token]], device=cache.keys.device), cache)[0])
            logits: np.ndarray = torch.stack(found).cpu().numpy()
        return logits

    def copy(self, source: int, target: int) -> None:
        """As `Rows.copy`."""
        cache = self._caches[source]
        self._caches[target] = cache and cache.clone()

    def close(self) -> None:
        """As `Rows.close`."""
        self._caches = []

    def _new_cache(self) -> "KVCache":
        from yinggem.inference.networks.torch_network import SLOTS
        from yinggem.model.kv_cache import KVCache

        weight = self._model.norm.weight
        return KVCache(self.config, 1, weight.device, weight.dtype, slots=SLOTS)


def rows_of(network: Network) -> Rows:
    """The rows of a network, all of which the caller takes."""
    if isinstance(network, EngineNetwork):
        return network.take(MAX_ROWS)[0]
    from yinggem.inference.networks.torch_network import TorchNetwork

    assert isinstance(network, TorchNetwork)
    return TorchRows(network)
