"""Models with random weights to export, large enough to be past their window."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from yinggem.export.source import Source
from yinggem.model.config import ModelConfig
from yinggem.model.kv_cache import KVCache
from yinggem.model.transformer import Transformer
from yinggem.text.tokenizer import ByteTokenizer, Tokenizer

WINDOW, PROMPT, LENGTH, GREEDY = 32, 40, 200, 150
SETTINGS: dict[str, Any] = {
    "hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2,
    "intermediate_size": 64, "attention_window": WINDOW, "initializer_range": 0.2,
}  # fmt: skip
DATA = {"source": "text", "path": "poems", "val_fraction": 0.1, "split_by": "characters", "fingerprint": "0"}


def random_model(vocab_size: int = 256, **changes: Any) -> Transformer:
    """Norms and biases are random too, which they are not at the start of a training."""
    torch.manual_seed(0)
    settings = SETTINGS | changes
    model = Transformer(ModelConfig(vocab_size, **settings)).eval()
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1:
            torch.nn.init.normal_(parameter, 0.0 if name.endswith("bias") else 1.0, 0.3)
    return model


def source_of(tokenizer: Tokenizer | None = None, **changes: Any) -> Source:
    """A random model with these settings, as an export sees it."""
    tokenizer = tokenizer or ByteTokenizer()
    return Source(Path("a.ckpt"), random_model(tokenizer.vocab_size, **changes), tokenizer, 64, DATA)


@torch.inference_mode()
def greedy(model: Transformer, prompt: torch.Tensor, count: int = GREEDY) -> torch.Tensor:
    """(B, count) of the likeliest ids, by our own cache."""

    def steps() -> Iterator[torch.Tensor]:
        cache, tokens = KVCache(model.config, len(prompt)), prompt
        for _ in range(count):
            tokens = model.next_logits(tokens, cache).argmax(-1, keepdim=True)
            yield tokens

    return torch.cat(list(steps()), dim=1)
