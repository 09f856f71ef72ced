"""What each head looks at: the weights of attention, which no kernel of attention returns."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from yinggem.model.masks import band_mask
from yinggem.model.rope import rotary_angles
from yinggem.model.transformer import Transformer


@torch.no_grad()
def attention_weights(model: Transformer, tokens: Tensor, queries: int | None = None) -> Iterator[Tensor]:
    """softmax(q k / sqrt d) of each layer, computed anew; everything before and behind it is the model's own.

    Args:
        model: in eval mode.
        tokens: (B, T) ids.
        queries: how many of the last positions are looked at; None: all.

    Yields:
        (B, Hq, Q, T) float32; each row sums to 1, and is 0 outside the window and in other documents.
    """
    config, length = model.config, tokens.size(1)
    window, count = min(config.attention_window or length, length), min(queries or length, length)
    angles = rotary_angles(0, length, config.head_size, config.rope_theta, tokens.device)
    documents, sees = model.documents(tokens), band_mask(count, length, window, tokens.device)  # (Q, T)
    if documents is not None:
        sees = sees & documents.same()[:, :, -count:]  # (B, 1, Q, T)
    x = model.embedding(tokens)
    block: Any
    for block in model.blocks:
        query, key, _ = block.attention.project(block.attention_norm(x), angles)
        key = key.repeat_interleave(query.size(1) // key.size(1), dim=1)
        scores = query[:, :, -count:].float() @ key.float().transpose(2, 3) / config.head_size**0.5
        yield scores.masked_fill(~sees, -torch.inf).softmax(-1, dtype=torch.float32)
        x = block.forward(x, angles, documents=documents)  # not block(): a compiled one would compile again
