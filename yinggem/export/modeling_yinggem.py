"""Models of YingGem in transformers, where no stock class means the same: this file lies in the exported folder.

A Qwen3 in which the parts that differ are replaced: biases (the head's too), the norms, and the feed-forward layer.
Load it with `trust_remote_code=True`; it needs torch and transformers alone.
"""

from typing import Any

from torch import Tensor, nn
from transformers.activations import ACT2FN
from transformers.models.qwen3.configuration_qwen3 import Qwen3Config
from transformers.models.qwen3.modeling_qwen3 import Qwen3ForCausalLM


class YingGemConfig(Qwen3Config):
    """Qwen3's settings, and more: mlp_bias, head_bias, qk_norm, gated_mlp, and norm, which is rms or layer."""

    model_type = "yinggem"


class YingGemMLP(nn.Module):
    """down(act(gate(x)) * up(x)), or down(act(up(x))) without a gate."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        hidden, inner, bias = config.hidden_size, config.intermediate_size, config.mlp_bias
        self.gate_proj = nn.Linear(hidden, inner, bias=bias) if config.gated_mlp else None
        self.up_proj = nn.Linear(hidden, inner, bias=bias)
        self.down_proj = nn.Linear(inner, hidden, bias=bias)
        self.act_fn = ACT2FN[config.hidden_act]

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., D)."""
        if self.gate_proj is None:
            return self.down_proj(self.act_fn(self.up_proj(x)))
        return self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x))


class YingGemForCausalLM(Qwen3ForCausalLM):
    """Next-token logits, with transformers' own cache, masks and `generate`."""

    config_class = YingGemConfig

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        for layer in self.model.layers:
            attention = layer.self_attn
            layer.mlp = YingGemMLP(config)
            if config.norm == "layer":
                layer.input_layernorm, layer.post_attention_layernorm = self._norm(), self._norm()
                attention.q_norm, attention.k_norm = self._norm(config.head_dim), self._norm(config.head_dim)
            if not config.qk_norm:
                attention.q_norm, attention.k_norm = nn.Identity(), nn.Identity()
        if config.norm == "layer":
            self.model.norm = self._norm()
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=config.head_bias)
        self.post_init()

    def _norm(self, size: int = 0) -> nn.Module:
        return nn.LayerNorm(size or self.config.hidden_size, self.config.rms_norm_eps, bias=self.config.attention_bias)
