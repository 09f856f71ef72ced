"""The network as ONNX runtimes call it: every key and value of the text so far goes in and comes out again."""

import torch
from torch import Tensor, nn

from yinggem.model.transformer import Attention, Transformer

Past = list[tuple[Tensor, Tensor]]  # of every layer: keys and values (B, Hkv, P, d)


class CachedTransformer(nn.Module):
    """A `Transformer` without state, of operators that ONNX has: its caller keeps the past, a mask is the window."""

    def __init__(self, model: Transformer) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, position_ids: Tensor, past: Past
    ) -> tuple[Tensor, Past]:
        """Tokens that continue a text, which may be padded on the left -> logits, and past and present together.

        Args:
            input_ids, position_ids: (B, T).
            attention_mask: (B, P + T), 0 where there is padding.
            past: of the P tokens before.

        Returns:
            (B, T, V), and keys and values (B, Hkv, P + T, d).
        """
        angles = self._angles(position_ids)
        mask = self._mask(attention_mask, input_ids.size(1))
        x, present = self.model.embedding(input_ids), []
        for block, (key, value) in zip(self.model.blocks, past, strict=True):
            query, new_key, new_value = block.attention.project(block.attention_norm(x), angles)  # type: ignore
            key, value = torch.cat((key, new_key), dim=2), torch.cat((value, new_value), dim=2)
            present.append((key, value))
            x = x + _attend(block.attention, query, key, value, mask)  # type: ignore[arg-type]
            x = x + block.mlp(block.mlp_norm(x))  # type: ignore[operator]
        return self.model.head(self.model.norm(x)), present

    def _angles(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """As `yinggem.model.rope.rotary_angles`, of positions (B, T) that differ by row: (B, T, 1, d)."""
        config = self.model.config
        exponents = torch.arange(0, config.head_size, 2, dtype=torch.float32) / config.head_size
        angles = (positions[..., None].float() * config.rope_theta**-exponents)[:, :, None]
        cos, sin = angles.cos(), angles.sin()
        return torch.cat((cos, cos), dim=-1), torch.cat((-sin, sin), dim=-1)

    def _mask(self, attention_mask: Tensor, length: int) -> Tensor:
        """(B, 1, T, P + T), to be added to scores; finite, for a row of padding sees nothing and must stay a number."""
        total, window = attention_mask.size(1), self.model.config.attention_window
        places = torch.arange(total)
        distance = places[total - length :, None] - places
        seen = distance >= 0
        if window is not None:
            seen = seen & (distance < window)
        seen = seen & (attention_mask[:, None, None] > 0)
        return torch.where(seen, 0.0, torch.finfo(torch.float32).min)


def _attend(attention: Attention, query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
    """(B, Hq, T, d), twice (B, Hkv, S, d), (B, 1, T, S) -> (B, T, D)."""
    groups = attention.heads // attention.kv_heads
    key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    weights = (query @ key.transpose(2, 3) * attention.size**-0.5 + mask).softmax(-1)
    out: Tensor = attention.output((weights @ value).transpose(1, 2).flatten(2))
    return out
