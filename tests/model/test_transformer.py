"""The whole model: parity with transformers' Mistral, causality, parameters, precision, options."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from mistral import make_mistral, make_model

from yinggem.common.errors import UserError
from yinggem.model.activations import ACTIVATIONS
from yinggem.model.config import ModelConfig
from yinggem.model.kv_cache import KVCache
from yinggem.model.norms import NORMS
from yinggem.model.transformer import Transformer


@torch.inference_mode()
@pytest.mark.parametrize("kv_heads", [4, 2])
@pytest.mark.parametrize("window", [8, None])
@pytest.mark.parametrize("backend", ["auto", "sdpa", "banded", "flex"])
def test_logits_equal_mistral_past_the_window(backend: str, window: int | None, kv_heads: int) -> None:
    ours = make_model(backend, attention_window=window, num_key_value_heads=kv_heads)
    tokens = torch.randint(61, (2, 43))
    torch.testing.assert_close(ours(tokens), make_mistral(ours)(tokens).logits, rtol=1e-4, atol=1e-4)


@torch.inference_mode()
def test_every_layer_equals_mistral() -> None:
    ours, tokens = make_model(), torch.randint(61, (2, 43))
    seen: list[torch.Tensor] = []
    for block in ours.blocks:
        block.register_forward_hook(lambda _module, _args, out: seen.append(out))
    ours(tokens)
    states = make_mistral(ours)(tokens, output_hidden_states=True).hidden_states
    for layer in range(2):  # transformers reports the last layer after the final norm
        torch.testing.assert_close(seen[layer], states[layer + 1], rtol=1e-4, atol=1e-4)


def test_gradients_equal_mistral() -> None:
    ours, tokens = make_model(), torch.randint(61, (2, 43))
    theirs = make_mistral(ours)
    ours.loss(tokens[:, :-1], tokens[:, 1:]).backward()
    theirs(tokens, labels=tokens).loss.backward()
    expected = dict(theirs.named_parameters())
    pairs = {
        "embedding.weight": "model.embed_tokens.weight", "head.weight": "lm_head.weight",
        "blocks.0.attention.output.weight": "model.layers.0.self_attn.o_proj.weight",
        "blocks.1.mlp.down.weight": "model.layers.1.mlp.down_proj.weight",
        "blocks.0.attention_norm.weight": "model.layers.0.input_layernorm.weight",
    }  # fmt: skip
    for name, theirs_name in pairs.items():
        torch.testing.assert_close(ours.get_parameter(name).grad, expected[theirs_name].grad, rtol=1e-3, atol=1e-5)


@torch.inference_mode()
def test_cached_decoding_equals_mistrals_own_cache_past_the_window() -> None:
    ours, tokens = make_model(), torch.randint(61, (2, 40))
    theirs, cache, past = make_mistral(ours), KVCache(ours.config, 2), None
    for piece in tokens.split([11] + [1] * 29, dim=1):
        out = theirs(piece, past_key_values=past, use_cache=True)
        past = out.past_key_values
        logits = ours.head(ours.hidden(piece, cache))
        torch.testing.assert_close(logits[:, -1], out.logits[:, -1], rtol=1e-4, atol=1e-4)


@torch.inference_mode()
@pytest.mark.parametrize("backend", ["sdpa", "banded"])
@pytest.mark.parametrize("changes", [{}, {"qk_norm": True, "bias": True}, {"attention_window": None}])
def test_a_token_changes_no_logit_before_it(backend: str, changes: dict[str, Any]) -> None:
    model, tokens = make_model(backend, **changes), torch.randint(61, (1, 200))
    other = tokens.clone()
    other[0, 150] = (other[0, 150] + 1) % 61
    difference = (model(tokens) - model(other)).abs().amax(-1)[0]
    assert difference[:150].max() == 0
    assert difference[150] > 0
    reach = 3 * 7 if changes.get("attention_window", 8) else 1000  # layers * (W - 1)
    assert difference[150 + reach + 1 :].numel() == 0 or difference[150 + reach + 1 :].max() == 0
    assert difference[min(150 + reach, 199)] > 0


def test_reference_model_has_the_published_parameters() -> None:
    with torch.device("meta"):
        assert Transformer(ModelConfig(vocab_size=50257)).parameters_count == 133_957_969


@pytest.mark.parametrize("tie", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("head_bias", [None, False, True])
@pytest.mark.parametrize("qk_norm", [False, True])
def test_options_count_their_parameters_and_round_trip(
    tie: bool, bias: bool, head_bias: bool | None, qk_norm: bool
) -> None:
    model = make_model(tie_word_embeddings=tie, bias=bias, head_bias=head_bias, qk_norm=qk_norm)
    assert model.parameters_count == model.config.parameters == sum(x.numel() for x in model.state_dict().values())
    assert ("head.weight" in model.state_dict()) is not tie
    assert ("head.bias" in model.state_dict()) is (bias if head_bias is None else head_bias)
    assert ("blocks.0.mlp.down.bias" in model.state_dict()) is bias
    other = Transformer(model.config).eval()
    other.load_state_dict(model.state_dict())
    tokens = torch.randint(61, (2, 12))
    assert other(tokens).equal(model(tokens))


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations_and_norms_count_their_parameters_and_flops(activation: str, norm: str, bias: bool) -> None:
    model = make_model(activation=activation, norm=norm, bias=bias, qk_norm=True)
    assert model.parameters_count == model.config.parameters == sum(x.numel() for x in model.state_dict().values())
    matrices = [x for name, x in model.named_parameters() if x.ndim == 2 and not name.startswith("embedding")]
    keys = sum(min(i, 8) for i in range(1, 13)) / 12
    assert model.flops_per_token(12) == pytest.approx(6 * sum(x.numel() for x in matrices) + 12 * 3 * 32 * keys)
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1:
            assert parameter.unique().tolist() == [0.0 if name.endswith("bias") else 1.0], name
    tokens = torch.randint(61, (2, 12))
    before = model.loss(tokens, tokens)
    before.backward()
    with torch.no_grad():
        for parameter in model.parameters():
            assert parameter.grad is not None
            parameter.sub_(1e-3 * parameter.grad)
    assert model.loss(tokens, tokens) < before


@torch.inference_mode()
def test_logits_equal_llama_with_its_own_activation() -> None:
    ours, tokens = make_model(activation="swiglu", attention_window=None), torch.randint(61, (2, 43))
    theirs = make_mistral(ours)
    theirs.config.hidden_act = "silu"
    for layer in theirs.model.layers:
        layer.mlp.act_fn = torch.nn.SiLU()
    torch.testing.assert_close(ours(tokens), theirs(tokens).logits, rtol=1e-4, atol=1e-4)


def test_a_configuration_without_the_settings_is_read_with_the_defaults() -> None:
    values = make_model().config.to_dict()
    del values["activation"], values["norm"], values["head_bias"]
    assert ModelConfig.from_dict(values) == make_model().config


def test_a_bias_of_the_head_is_there_or_not() -> None:
    with pytest.raises(UserError, match=r"model\.head_bias must be true, false or null"):
        make_model(head_bias="no")


@pytest.mark.parametrize("changes", [{"activation": "gelu"}, {"norm": "batch"}, {"norm": None}, {"activation": ["a"]}])
def test_an_unknown_activation_or_norm_is_named(changes: dict[str, Any]) -> None:
    name = next(iter(changes))
    with pytest.raises(UserError, match=rf"model\.{name} must be \w+.* or \w+, not "):
        make_model(**changes)


def test_tied_head_follows_its_embedding() -> None:
    model, tokens = make_model(tie_word_embeddings=True), torch.randint(61, (2, 12))
    model.load_state_dict({name: 2 * x for name, x in model.state_dict().items()}, assign=True)
    torch.testing.assert_close(model(tokens), model.hidden(tokens) @ model.embedding.weight.t())


@pytest.mark.parametrize("changes", [{}, {"bias": True, "dropout": 0.1, "attention_dropout": 0.2}, {"qk_norm": True}])
@pytest.mark.parametrize("mode", ["bfloat16", "autocast"])
def test_reduced_precision_trains(mode: str, changes: dict[str, Any]) -> None:
    model = make_model(**changes).train()
    tokens = torch.randint(61, (2, 43))
    exact = make_model(**changes).loss(tokens, tokens)
    if mode == "bfloat16":
        model.bfloat16()
    with torch.autocast("cpu", torch.bfloat16, enabled=mode == "autocast"):
        loss = model.loss(tokens, tokens)
    loss.backward()
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(exact.item(), rel=0.3 if changes.get("dropout") else 0.05)
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("changes", [{}, {"bias": True}, {"tie_word_embeddings": True}])
def test_the_loss_is_the_cross_entropy_of_the_logits(changes: dict[str, Any], reduction: str) -> None:
    model, tokens = make_model(**changes), torch.randint(61, (3, 14))
    logits = model(tokens[:, :-1])
    expected = F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten(), reduction=reduction)
    found = model.loss(tokens[:, :-1], tokens[:, 1:], reduction)
    torch.testing.assert_close(found.flatten(), expected.detach().flatten(), check_stride=False)


def test_dropout_is_drawn_in_training_alone() -> None:
    model, tokens = make_model(dropout=0.5, attention_dropout=0.5), torch.randint(61, (2, 12))
    assert model(tokens).equal(model(tokens))
    model.train()
    assert not model(tokens).equal(model(tokens))


def test_initialisation_shrinks_the_residual_branches() -> None:
    model = make_model(hidden_size=256, intermediate_size=256, initializer_range=0.02, bias=True)
    assert model.get_parameter("blocks.0.attention.qkv.weight").std().item() == pytest.approx(0.02, rel=0.05)
    assert model.get_parameter("blocks.1.mlp.down.weight").std().item() == pytest.approx(0.02 / 6**0.5, rel=0.05)
    assert model.head.bias is not None and not model.head.bias.any()


def test_flops_count_the_window() -> None:
    """By hand, T=4 and W=2: queries see 1, 2, 2, 2 keys, 1.75 on average."""
    model = make_model(attention_window=2)
    matrices = 3 * (32 * (32 + 2 * 16) + 32 * 32 + 32 * 96 + 48 * 32) + 61 * 32
    assert model.flops_per_token(4) == 6 * matrices + 12 * 3 * 32 * 1.75


@pytest.mark.slow
def test_compiles_in_place_with_clean_keys() -> None:
    model, tokens = make_model().train(), torch.randint(61, (2, 43))
    keys, expected = list(model.state_dict()), model(tokens)
    weights = torch.randn_like(expected)
    gradients = torch.autograd.grad((expected * weights).sum(), list(model.parameters()))
    model.compile(backend="aot_eager")
    torch.testing.assert_close(model(tokens), expected)
    (model(tokens) * weights).sum().backward()
    for parameter, gradient in zip(model.parameters(), gradients, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-4, atol=1e-4)
    assert list(model.state_dict()) == keys
