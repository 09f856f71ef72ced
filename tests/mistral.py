"""Small models of ours, and transformers' Mistral with the same weights."""

from typing import Any

import torch
from transformers import MistralForCausalLM
from transformers.models.mistral.configuration_mistral import MistralConfig

from yinggem.model.config import ModelConfig
from yinggem.model.transformer import Transformer

SHAPE: dict[str, Any] = {
    "vocab_size": 61, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2,
    "intermediate_size": 48, "attention_window": 8, "bias": False, "initializer_range": 0.2,
}  # fmt: skip


def make_model(backend: str = "auto", **changes: Any) -> Transformer:
    torch.manual_seed(0)
    return Transformer(ModelConfig(**{**SHAPE, **changes}), backend).eval()


def make_mistral(ours: Transformer) -> MistralForCausalLM:
    """transformers' Mistral with the same weights."""
    config, state = ours.config, ours.state_dict()
    theirs = MistralForCausalLM(
        MistralConfig(
            vocab_size=config.vocab_size, hidden_size=config.hidden_size, intermediate_size=config.intermediate_size,
            num_hidden_layers=config.num_hidden_layers, num_attention_heads=config.num_attention_heads,
            num_key_value_heads=config.key_value_heads, head_dim=config.head_size, hidden_act="gelu_pytorch_tanh",
            rms_norm_eps=config.rms_norm_eps, rope_theta=config.rope_theta, sliding_window=config.attention_window,
            tie_word_embeddings=False, max_position_embeddings=4096, attn_implementation="eager",
            bos_token_id=None, eos_token_id=None, pad_token_id=None,
        )
    ).eval()  # fmt: skip
    renamed = {"model.embed_tokens.weight": state["embedding.weight"], "model.norm.weight": state["norm.weight"],
               "lm_head.weight": state["head.weight"]}  # fmt: skip
    heads = [config.hidden_size, *[config.key_value_heads * config.head_size] * 2]
    for i in range(config.num_hidden_layers):
        block, mistral = f"blocks.{i}.", f"model.layers.{i}."
        qkv = state[block + "attention.qkv.weight"].split(heads)
        gate_up = state[block + "mlp.gate_up.weight"].chunk(2)
        renamed |= {f"{mistral}self_attn.{name}_proj.weight": x for name, x in zip("qkv", qkv, strict=True)}
        renamed |= {f"{mistral}mlp.{name}_proj.weight": x for name, x in zip(("gate", "up"), gate_up, strict=True)}
        renamed[mistral + "self_attn.o_proj.weight"] = state[block + "attention.output.weight"]
        renamed[mistral + "mlp.down_proj.weight"] = state[block + "mlp.down.weight"]
        renamed[mistral + "input_layernorm.weight"] = state[block + "attention_norm.weight"]
        renamed[mistral + "post_attention_layernorm.weight"] = state[block + "mlp_norm.weight"]
    theirs.load_state_dict(renamed)
    return theirs
