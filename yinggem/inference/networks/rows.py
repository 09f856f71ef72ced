"""What the batcher asks of a model: rows, each a text with a position of its own, continued side by side."""

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

import numpy as np

from yinggem.engine.engine import MAX_ROWS
from yinggem.inference.generation import Network
from yinggem.inference.networks.engine_network import EngineNetwork
from yinggem.model.config import ModelConfig

if TYPE_CHECKING:
    from yinggem.inference.networks.torch_network import TorchNetwork
    from yinggem.model.decoding import SideBySideStep
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


SEVERAL = 8  # about as many texts go on at once where there are several


class TorchRows:
    """Rows that torch computes: each has a cache of its own, and those that go on do so together."""

    def __init__(self, network: "TorchNetwork", rows: int = MAX_ROWS) -> None:
        from yinggem.model.decoding import DecodingStep

        self.config, self.rows, self._model = network.config, rows, network.model
        self._caches: list[KVCache | None] = [None] * rows
        self._alone = DecodingStep(network.model, self._new_cache()).model  # laid out once, for one row of any cache

    @cached_property
    def _together(self) -> "SideBySideStep":
        from yinggem.model.decoding import SideBySideStep

        return SideBySideStep(self._model, SEVERAL)

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

        caches = [cache for row in rows if (cache := self._caches[row]) is not None]
        assert len(caches) == len(rows), "a row is read before it goes on"
        with torch.inference_mode():
            tokens = torch.tensor(ids, device=caches[0].keys.device)
            if len(rows) == 1:  # by the same kernels as generating it alone
                found = self._alone.next_logits(tokens[:, None], caches[0])
            else:
                found = self._together(tokens, caches)
            logits: np.ndarray = found.cpu().numpy()
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
