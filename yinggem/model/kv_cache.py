"""The rolling key/value cache: exactly `attention_window` slots per layer, whatever the length of the text."""

import torch
from torch import Tensor

from yinggem.common.errors import UserError
from yinggem.model.config import ModelConfig
from yinggem.model.kernels.huge_pages import zeros


class KVCache:
    """Rotated keys and values of the last `attention_window` positions of every layer, in static ring buffers.

    The key of position p stands in slot p % slots. `length` counts the positions seen so far, which is also the
    absolute position of the next token. Without a window the buffers hold `max_length` positions when that is
    given and double when full when it is not.

    Raises:
        UserError: more positions than `max_length` were asked of a model without a window.
    """

    def __init__(
        self,
        config: ModelConfig,
        batch_size: int,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        max_length: int | None = None,
    ) -> None:
        self.window, self.max_length, self.length = config.attention_window, max_length, 0
        slots = self.window or max_length or 256
        shape = (config.num_hidden_layers, batch_size, config.key_value_heads, slots, config.head_size)
        self.keys, self.values = zeros(shape, dtype, device), zeros(shape, dtype, device)
        self._step: list[tuple[Tensor, ...]] = []  # of each layer, for one token: its slot's, then all visible k and v

    @property
    def slots(self) -> int:
        """Positions each layer holds."""
        return self.keys.size(3)

    def reset(self) -> None:
        """Forget everything; the buffers are reused."""
        self.length = 0

    def reserve(self, tokens: int) -> None:
        """Make room for `tokens` more positions; called once per forward pass, before the layers."""
        needed = self.length + tokens
        if not self.window and needed > self.slots:
            self._grow(needed)
        if tokens == 1:  # here for all layers at once: in every layer it would show
            slot, filled, buffers = self.length % self.slots, min(needed, self.slots), (self.keys, self.values)
            views = [x.narrow(3, slot, 1) for x in buffers] + [x.narrow(3, 0, filled) for x in buffers]
            self._step = list(zip(*(view.unbind() for view in views), strict=True))

    def _grow(self, needed: int) -> None:
        if self.max_length:
            raise UserError(f"The key/value cache holds max_length={self.max_length} positions; {needed} were asked.")
        extra = (1 << (needed - 1).bit_length()) - self.slots
        self.keys, self.values = (
            torch.cat((x, x.new_zeros(*x.shape[:3], extra, x.size(4))), dim=3) for x in (self.keys, self.values)
        )

    def extend(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Add the keys and values (B, Hkv, T, d) of the next T positions; return all that these positions may see.

        For T = 1 that is the ring itself, a view in slot order: every slot is visible and attention does not
        depend on the order of keys. For T > 1 it is the earlier positions in order, then the new ones.
        `advance` moves the position on once all layers are done.
        """
        tokens, seen, slots = key.size(2), self.length, self.slots
        if tokens == 1:
            key_slot, value_slot, keys, values = self._step[layer]
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

    def advance(self, tokens: int) -> None:
        """Count `tokens` positions as seen."""
        self.length += tokens
