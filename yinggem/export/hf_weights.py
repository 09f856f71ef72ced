"""Our weights under the names that transformers gives them, and back: the same numbers, cut and joined."""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from yinggem.model.config import ModelConfig

OUTSIDE = {"embedding": "model.embed_tokens", "norm": "model.norm", "head": "lm_head"}
# What one matrix of ours is there: several, one above the other.
INSIDE = {
    "attention_norm": ("input_layernorm",),
    "attention.qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "attention.query_norm": ("self_attn.q_norm",),
    "attention.key_norm": ("self_attn.k_norm",),
    "attention.output": ("self_attn.o_proj",),
    "mlp_norm": ("post_attention_layernorm",),
    "mlp.gate_up": ("mlp.gate_proj", "mlp.up_proj"),
    "mlp.up": ("mlp.up_proj",),
    "mlp.down": ("mlp.down_proj",),
}


def to_transformers(state: Mapping[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
    """A Transformer's state dict under their names; a tied head has no matrix in either."""
    found: dict[str, Tensor] = {}
    for name, tensor in state.items():
        theirs = their_names(name)
        parts = tensor.split(_rows(name, config), dim=0) if len(theirs) > 1 else [tensor]
        found |= {other: part.detach().contiguous() for other, part in zip(theirs, parts, strict=True)}
    return found


def from_transformers(tensors: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inverse.

    Args:
        wanted: a Transformer's state dict, for its names.

    Raises:
        KeyError: a tensor is missing.
    """
    return {name: torch.cat([tensors[other] for other in their_names(name)]) for name in wanted}


def their_names(name: str) -> list[str]:
    """What an entry of our state dict is called there."""
    inside = re.fullmatch(r"blocks\.(\d+)\.(.+)\.(weight|bias)", name)
    if inside:
        return [f"model.layers.{inside[1]}.{other}.{inside[3]}" for other in INSIDE[inside[2]]]
    module, _, kind = name.rpartition(".")
    return [f"{OUTSIDE[module]}.{kind}"]


def _rows(name: str, config: ModelConfig) -> list[int]:
    """Rows of the parts of a joined matrix."""
    if "qkv" in name:
        return [config.hidden_size, *[config.key_value_heads * config.head_size] * 2]
    return [config.intermediate_size] * 2
