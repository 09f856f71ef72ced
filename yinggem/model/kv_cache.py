"""The rolling key/value cache: at most `attention_window` slots per layer, whatever the length of the text."""

import copy

import torch
from torch import Tensor

from yinggem.model.config import ModelConfig
from yinggem.model.kernels.huge_pages import zeros_in_huge_pages
from yinggem.model.masks import Documents


class KVCache:
    """Rotated keys and values of the last `attention_window` positions of every layer, in ring buffers.

    The key of position p stands in slot p % slots. `length` counts the positions seen so far, which is also the
    absolute position of the next token. Buffers that are full double, up to the window; from there on they are static
    and the newest position takes the slot of the oldest.

    Args:
        slots: positions to make room for at first; by default the window, or 256 without one.
    """

    def __init__(
        self,
        config: ModelConfig,
        batch_size: int,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        slots: int | None = None,
    ) -> None:
        self.window, self.length = config.attention_window, 0
        slots = slots or self.window or 256
        slots = min(slots, self.window or slots)
        shape = (config.num_hidden_layers, batch_size, config.key_value_heads, slots, config.head_size)
        self.keys, self.values = (zeros_in_huge_pages(shape, dtype, device) for _ in range(2))
        self._documents: Tensor | None = None  # (B, slots): the number of each position's document, where they matter
        self._step_views: list[tuple[Tensor, ...]] = []  # of each layer, for one token: its slot's k and v, then all

    @property
    def slots(self) -> int:
        """Positions each layer holds."""
        return self.keys.size(3)

    def reset(self) -> None:
        """Forget everything; the buffers are reused."""
        self.length, self._documents = 0, None

    def reserve(self, tokens: int) -> None:
        """Make room for `tokens` more positions; called once per forward pass, before the layers."""
        needed = self.length + tokens
        if needed > self.slots and self.slots != self.window:
            slots = 1 << (needed - 1).bit_length()
            self._move(self.keys.size(1), min(slots, self.window or slots))
        if tokens == 1:  # for all layers at once: in every layer it would take noticeable time
            slot, filled, buffers = self.length % self.slots, min(needed, self.slots), (self.keys, self.values)
            views = [x.narrow(3, slot, 1) for x in buffers] + [x.narrow(3, 0, filled) for x in buffers]
            self._step_views = list(zip(*(view.unbind() for view in views), strict=True))

    def expand(self, rows: int) -> None:
        """Continue the one text seen so far in `rows` rows, each with a copy of it."""
        if rows != self.keys.size(1):
            self._move(rows, self.slots)

    def clone(self) -> "KVCache":
        """The same text in memory of its own."""
        twin = copy.copy(self)
        twin.keys, twin.values, twin._step_views = self.keys.clone(), self.values.clone(), []
        twin._documents = None if self._documents is None else self._documents.clone()
        return twin

    def _move(self, rows: int, slots: int) -> None:
        """Copy into new, never smaller buffers. They grow before anything wraps round, so keys keep their slots."""
        layers, _, heads, held, size = self.keys.shape
        old = self.keys, self.values
        self.keys, self.values = (
            zeros_in_huge_pages((layers, rows, heads, slots, size), x.dtype, x.device) for x in old
        )
        if self._documents is not None:
            old_numbers = self._documents.expand(rows, -1)
            self._documents = torch.cat((old_numbers, old_numbers.new_zeros(rows, slots - held)), dim=1)
        if self.length:
            for new, x in zip((self.keys, self.values), old, strict=True):
                new[:, :, :, :held] = x

    def extend(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Add the keys and values (B, Hkv, T, d) of the next T positions; return all that these positions may see.

        For T = 1 that is the ring itself, a view in slot order: every slot is visible and attention does not
        depend on the order of keys. For T > 1 it is the earlier positions in order, then the new ones.
        `advance` moves the position on once all layers are done.
        """
        tokens, seen, slots = key.size(2), self.length, self.slots
        if tokens == 1:
            key_slot, value_slot, keys, values = self._step_views[layer]
            key_slot.copy_(key)
            value_slot.copy_(value)
            return keys, values
        keys, values = self.keys[layer], self.values[layer]
        visible = key, value
        if seen:
            order = torch.arange(max(0, seen - slots + 1), seen, device=key.device) % slots
            visible = torch.cat((keys[:, :, order], key), dim=2), torch.cat((values[:, :, order], value), dim=2)
        kept = min(tokens, slots)
        order = torch.arange(seen + tokens - kept, seen + tokens, device=key.device) % slots
        keys[:, :, order], values[:, :, order] = key[:, :, -kept:], value[:, :, -kept:]
        return visible

    def documents(self, begins: Tensor) -> Documents:
        """The documents of the next positions and of all that `extend` returns for them, before the first layer.

        Args:
            begins: (B, T) booleans, which of the next tokens begin a document.
        """
        tokens, seen, slots = begins.size(1), self.length, self.slots
        if self._documents is None:
            self._documents = torch.zeros(len(begins), slots, dtype=torch.int64, device=begins.device)
        held = self._documents
        before = held[:, (seen - 1) % slots] if seen else held.new_zeros(len(held))
        numbers = before[:, None] + begins.cumsum(1)
        if tokens == 1:
            held[:, seen % slots] = numbers[:, 0]
            return Documents(numbers, held[:, : min(seen + 1, slots)])
        order = torch.arange(max(0, seen - slots + 1), seen, device=begins.device) % slots
        keys = torch.cat((held[:, order], numbers), dim=1)
        kept = min(tokens, slots)
        held[:, torch.arange(seen + tokens - kept, seen + tokens, device=begins.device) % slots] = numbers[:, -kept:]
        return Documents(numbers, keys)

    def advance(self, tokens: int) -> None:
        """Count `tokens` positions as seen."""
        self.length += tokens
