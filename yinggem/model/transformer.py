"""The decoder-only Transformer: blocks, initialisation, parameter and FLOP counts."""

import math

import torch
from torch import Tensor, nn

from yinggem.model.attention import attention, check_backend
from yinggem.model.config import ModelConfig
from yinggem.model.kv_cache import KVCache
from yinggem.model.layers import MLP, Linear, Norm, TiedHead
from yinggem.model.loss import next_token_loss
from yinggem.model.masks import Documents
from yinggem.model.rope import rotary_angles, rotate

Angles = tuple[Tensor, Tensor]


def make_norm(config: ModelConfig, size: int) -> Norm:
    """The normalisation of vectors of `size` numbers that the configuration names."""
    return Norm(size, config.norm, config.rms_norm_eps, config.bias)


class Attention(nn.Module):
    """Multi-head causal sliding-window attention with rotary positions and grouped key/value heads."""

    attend = staticmethod(attention)

    def __init__(self, config: ModelConfig, backend: str) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.size = config.num_attention_heads, config.key_value_heads, config.head_size
        self.window, self.dropout, self.backend = config.attention_window, config.attention_dropout, backend
        self.qkv = Linear(config.hidden_size, (self.heads + 2 * self.kv_heads) * self.size, bias=config.bias)
        self.output = Linear(config.hidden_size, config.hidden_size, bias=config.bias)
        self.qk_norm = config.qk_norm
        if config.qk_norm:
            self.query_norm, self.key_norm = (make_norm(config, self.size) for _ in range(2))

    def forward(
        self,
        x: Tensor,
        angles: Angles,
        cache: KVCache | None = None,
        layer: int = 0,
        documents: Documents | None = None,
    ) -> Tensor:
        """(B, T, D) -> (B, T, D)."""
        query, key, value = self.project(x, angles)
        if cache is not None:
            key, value = cache.extend(layer, key, value)
        dropout = self.dropout if self.training else 0.0
        out = self.attend(query, key, value, self.window, dropout, self.backend, documents)
        mixed: Tensor = self.output(out.transpose(1, 2).flatten(2))
        return mixed

    def project(self, x: Tensor, angles: Angles) -> tuple[Tensor, Tensor, Tensor]:
        """(B, T, D) -> query (B, Hq, T, d), key and value (B, Hkv, T, d), normalised and rotated as configured."""
        heads = self.qkv(x).unflatten(-1, (-1, self.size))  # (B, T, Hq + 2 Hkv, d)
        turning, value = heads.split((self.heads + self.kv_heads, self.kv_heads), dim=2)
        if self.qk_norm:
            query, key = turning.split((self.heads, self.kv_heads), dim=2)
            turning = torch.cat((self.query_norm(query), self.key_norm(key)), dim=2)
        turned = rotate(turning, *angles).transpose(1, 2)  # (B, H, T, d)
        query, key = turned.split((self.heads, self.kv_heads), dim=1)
        if torch.is_grad_enabled():
            value = value.contiguous()  # a part of qkv would keep all of it until the backward pass
        return query, key, value.transpose(1, 2)


class Block(nn.Module):
    """Pre-norm residual block: attention, then the feed-forward layer."""

    def __init__(self, config: ModelConfig, backend: str) -> None:
        super().__init__()
        self.attention_norm = make_norm(config, config.hidden_size)
        self.attention = Attention(config, backend)
        self.mlp_norm = make_norm(config, config.hidden_size)
        self.mlp = MLP(config.hidden_size, config.intermediate_size, config.bias, config.activation)
        self.dropout = nn.Dropout(config.dropout) if config.dropout else nn.Identity()

    def forward(
        self,
        x: Tensor,
        angles: Angles,
        cache: KVCache | None = None,
        layer: int = 0,
        documents: Documents | None = None,
    ) -> Tensor:
        """(B, T, D) -> (B, T, D)."""
        x = x + self.dropout(self.attention(self.attention_norm(x), angles, cache, layer, documents))
        out: Tensor = x + self.dropout(self.mlp(self.mlp_norm(x)))
        return out


class Transformer(nn.Module):
    """Token ids to next-token logits, as `ModelConfig` describes.

    Args:
        config: the architecture.
        attention_backend: see `yinggem.model.attention.BACKENDS`; all mean the same.

    Raises:
        UserError: there is no such backend.
    """

    def __init__(self, config: ModelConfig, attention_backend: str = "auto") -> None:
        super().__init__()
        check_backend(attention_backend)
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.hidden_size)
        self.dropout = nn.Dropout(config.dropout) if config.dropout else nn.Identity()
        self.blocks = nn.ModuleList(Block(config, attention_backend) for _ in range(config.num_hidden_layers))
        self.norm = make_norm(config, config.hidden_size)
        self.head: Linear | TiedHead
        if config.tie_word_embeddings:
            self.head = TiedHead(self.embedding, config.head_has_bias)
        else:
            self.head = Linear(config.hidden_size, config.vocab_size, bias=config.head_has_bias)
        self.reset_parameters()

    def forward(self, tokens: Tensor) -> Tensor:
        """Token ids (B, T) -> logits (B, T, V)."""
        logits: Tensor = self.head(self.hidden(tokens))
        return logits

    def loss(self, tokens: Tensor, targets: Tensor, reduction: str = "mean", counted: Tensor | None = None) -> Tensor:
        """Cross-entropy in nats of the predictions after `tokens` (B, T) against `targets` (B, T).

        It is that of `forward`'s logits, computed in chunks: (B * T, V) logits never exist at once.

        Args:
            reduction: "mean" over every target, "sum", or "none": (B, T), without gradients.
            counted: (B, T) booleans, the targets that count; None: all. With "none" theirs are returned, (N,).
        """
        hidden = self.hidden(tokens)
        if counted is not None:
            hidden, targets = hidden[counted], targets[counted]
        return next_token_loss(hidden, self.head.weight, targets, self.head.bias, reduction)

    def hidden(self, tokens: Tensor, cache: KVCache | None = None) -> Tensor:
        """Token ids (B, T) -> hidden states (B, T, D) after the final norm.

        With a cache the tokens continue the text it has seen, at the absolute positions that follow.
        """
        start, length = (cache.length if cache else 0), tokens.size(1)
        if cache:
            cache.reserve(length)
        angles = rotary_angles(start, length, self.config.head_size, self.config.rope_theta, tokens.device)
        x = self.dropout(self.embedding(tokens))
        documents = self.documents(tokens, cache)
        for layer, block in enumerate(self.blocks):
            # A compiled block would compile again for every length of the cache, to no gain: decoding reads memory.
            call = block.forward if cache else block
            x = call(x, angles, cache, layer if cache else 0, documents)
        if cache:
            cache.advance(length)
        out: Tensor = self.norm(x)
        return out

    def documents(self, tokens: Tensor, cache: KVCache | None = None) -> Documents | None:
        """Which documents tokens (B, T) and the keys they see belong to; None where that does not matter."""
        if self.config.document_end is None:
            return None
        begins = tokens == self.config.document_end  # the end of a document is seen as the beginning of the next
        if cache:
            return cache.documents(begins)
        numbers = begins.cumsum(1)
        return Documents(numbers, numbers)

    def next_logits(self, tokens: Tensor, cache: KVCache) -> Tensor:
        """Logits (B, V), float32, of the token that follows `tokens` (B, T), which continue the text in the cache."""
        logits: Tensor = self.head(self.hidden(tokens, cache)[:, -1:])[:, 0].float()
        return logits

    def compile_blocks(self) -> None:
        """torch.compile every block in place: the state dict keeps its names.

        Attention stays as it is: its loop over the sequence would be unrolled, which takes minutes and gains nothing.
        """
        attend = torch.compiler.disable(attention)
        for module in self.modules():
            if isinstance(module, Attention):
                module.attend = attend
            elif isinstance(module, Block):
                module.compile()

    @property
    def parameters_count(self) -> int:
        """Number of trainable parameters, shared ones once."""
        return sum(parameter.numel() for parameter in self.parameters())

    def flops_per_token(self, length: int) -> float:
        """Floating-point operations of one training token in a sequence of `length`: forward and backward.

        6 per weight that multiplies (2 forward, 4 backward: every matrix, the head's included, the embedding
        look-up not), and 12 * layers * D per key that a query sees (scores and their product with the values),
        averaged over the sequence: mean_i min(i, W) for i = 1 .. T. The elementwise work is not counted.
        """
        config = self.config
        matrices = [module.weight for module in self.modules() if isinstance(module, nn.Linear | TiedHead)]
        window = min(config.attention_window or length, length)
        keys = (window * (window + 1) / 2 + (length - window) * window) / length
        attention = 12 * config.num_hidden_layers * config.hidden_size * keys
        return 6 * sum(weight.numel() for weight in matrices) + attention

    def reset_parameters(self) -> None:
        """Normal weights, the branches' last layers shrunk by sqrt(2 * layers) as in GPT-2; biases 0, norms 1."""
        std = self.config.initializer_range
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):  # those of norms too
                nn.init.zeros_(parameter)
            elif "norm" in name:
                nn.init.ones_(parameter)
            else:
                residual = name.endswith(("attention.output.weight", "mlp.down.weight"))
                shrink = math.sqrt(2 * self.config.num_hidden_layers) if residual else 1.0
                nn.init.normal_(parameter, std=std / shrink)
