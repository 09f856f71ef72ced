"""The weights of attention are those with which the model attends."""

from typing import Any

import pytest
import torch
from mistral import make_mistral, make_model

from yinggem.model.attention import attention
from yinggem.model.attention_weights import attention_weights

END = 7


@torch.inference_mode()
@pytest.mark.parametrize("changes", [
    {}, {"attention_window": None}, {"num_key_value_heads": 2, "qk_norm": True}, {"attention_window": 100},
    {"document_end": END},
], ids=str)  # fmt: skip
def test_with_the_values_they_give_what_attention_gives(changes):
    model, tokens = make_model(**changes), torch.randint(61, (2, 43))
    tokens[:, 20] = END
    attended: list[tuple[torch.Tensor, torch.Tensor]] = []

    def attend(query, key, value, *rest):
        out = attention(query, key, value, *rest)
        attended.append((value, out))
        return out

    block: Any
    for block in model.blocks:
        block.attention.attend = attend
    model(tokens)
    found = list(attention_weights(model, tokens))
    for weights, (value, out) in zip(found, attended, strict=False):
        value = value.repeat_interleave(weights.size(1) // value.size(1), dim=1)
        torch.testing.assert_close(weights @ value, out, rtol=1e-4, atol=1e-5)
    back = torch.arange(43)[:, None] - torch.arange(43)
    window = model.config.attention_window or 43
    for weights in found:
        torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:-1]))
        assert (weights[:, :, (back < 0) | (back >= window)] == 0).all()
        assert changes.get("document_end") is None or (weights[:, :, 20:, :20] == 0).all()
    for some, weights in zip(attention_weights(model, tokens, 5), found, strict=True):
        torch.testing.assert_close(some, weights[:, :, -5:])


@torch.inference_mode()
def test_they_are_those_of_transformers_past_the_window():
    ours = make_model(num_key_value_heads=2)
    tokens = torch.randint(61, (2, 43))
    theirs = make_mistral(ours)(tokens, output_attentions=True).attentions
    for mine, other in zip(attention_weights(ours, tokens), theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-6)
