"""Attention maps: for each layer and head what every token of a text looks at, as one page that loads nothing."""

import base64
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from yinggem.common.errors import UserError
from yinggem.inference.pages.self_contained import data_of, page_of, shown
from yinggem.inference.token_log import token_name
from yinggem.model.attention_weights import attention_weights
from yinggem.model.transformer import Transformer
from yinggem.text.tokenizer import Tokenizer

MOST_TOKENS = 512  # of a text: its page holds half a million weights for every four heads
FILES = Path(__file__).parent


@dataclass(frozen=True)
class AttentionMaps:
    """What each head looks at, in a text of T tokens.

    Attributes:
        window: keys that a token sees, itself included; at most T.
        weights: (L, H, P) bytes, 255 times the square root of each weight: small ones are told apart too. P counts the
            pairs of a token and one that it sees: token by token, the earliest first.
        distances: (L, H) how many tokens back a head looks, averaged by weight and over the tokens.
    """

    window: int
    weights: np.ndarray
    distances: np.ndarray

    def encoded(self) -> str:
        """The weights as the page holds them: compressed, in base64."""
        return base64.b64encode(zlib.compress(self.weights.tobytes())).decode()


def attention_maps(model: Transformer, ids: list[int]) -> AttentionMaps:
    """The maps of a text by its ids (T,).

    Args:
        model: in eval mode.

    Raises:
        UserError: there are too many.
    """
    length = check_length(len(ids))
    window = min(model.config.attention_window or length, length)
    back = np.arange(length)[:, None] - np.arange(length)  # (T, T)
    sees = (back >= 0) & (back < window)
    weights, distances = [], []
    for layer in attention_weights(model, torch.tensor([ids], device=model.norm.weight.device)):
        each = layer[0].cpu().numpy()  # (H, T, T)
        distances.append((each * back).sum(-1, dtype=np.float64).mean(-1))
        weights.append(np.rint(255 * np.sqrt(each[:, sees])).astype(np.uint8))
    return AttentionMaps(window, np.stack(weights), np.stack(distances))


def check_length(length: int) -> int:
    """The length of a text in tokens; UserError where it is too long for a page."""
    if length > MOST_TOKENS:
        raise UserError(
            f"The text has {length:,} tokens, and attention is shown of up to {MOST_TOKENS}; take a part of it."
        )
    return length


def attention_page(title: str, maps: AttentionMaps, tokenizer: Tokenizer, ids: list[int]) -> str:
    """The page, as HTML.

    Args:
        ids: those of the maps.
    """
    layers, heads = maps.distances.shape
    told = {
        "layers": layers,
        "heads": heads,
        "window": maps.window,
        "tokens": [name_of(tokenizer, token) for token in ids],
        "distances": maps.distances.round(2).tolist(),
    }
    body = (FILES / "attention.html").read_text(encoding="utf-8").replace("TITLE", shown(title))
    body += data_of("told", told) + data_of("weights", maps.encoded())
    style, script = ((FILES / f"attention.{kind}").read_text(encoding="utf-8") for kind in ("css", "js"))
    return page_of(title, body, style, script)


def name_of(tokenizer: Tokenizer, token: int) -> str:
    """What is shown of a token."""
    content = tokenizer.tokens[token]
    return token_name(content) if content else "<end>"  # which stands for no text
