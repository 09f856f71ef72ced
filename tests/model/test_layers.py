"""Linear, Norm and MLP, with every activation and norm, against their definitions and transformers' own layers."""

import pytest
import torch
import torch.nn.functional as F
from references import ACTIVATION_DEFINITIONS, layer_norm, rms_norm
from torch import nn
from transformers.models.llama.configuration_llama import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaMLP
from transformers.models.mistral.modeling_mistral import MistralRMSNorm

from yinggem.model.activations import ACTIVATIONS
from yinggem.model.layers import MLP, Linear, Norm
from yinggem.model.norms import NORMS


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
def test_rms_norm_is_its_definition(scale: float) -> None:
    norm, x = Norm(48), torch.randn(2, 5, 48) * scale
    torch.nn.init.normal_(norm.weight)
    torch.testing.assert_close(norm(x), rms_norm(x, norm.weight, 1e-6).float(), rtol=1e-5, atol=1e-6)


def test_rms_norm_equals_mistral() -> None:
    ours, theirs, x = Norm(48), MistralRMSNorm(48, eps=1e-6), torch.randn(2, 5, 48)
    torch.nn.init.normal_(ours.weight)
    theirs.load_state_dict(ours.state_dict())
    torch.testing.assert_close(ours(x), theirs(x))


@pytest.mark.parametrize("bias", [False, True])
def test_layer_norm_equals_torchs(bias: bool) -> None:
    ours, theirs, x = Norm(48, "layer", 1e-5, bias), nn.LayerNorm(48, 1e-5, bias=bias), torch.randn(2, 5, 48) + 3
    for parameter in ours.parameters():
        torch.nn.init.normal_(parameter)
    theirs.load_state_dict(ours.state_dict())
    torch.testing.assert_close(ours(x), theirs(x))
    torch.testing.assert_close(ours(x), layer_norm(x, ours.weight, ours.bias, 1e-5).float(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", NORMS)
def test_gradients_of_norms_are_finite_differences(kind: str) -> None:
    norm = Norm(8, kind, bias=True).double()
    x = torch.randn(2, 3, 8, dtype=torch.float64, requires_grad=True)
    names = [name for name, parameter in norm.named_parameters() if torch.nn.init.normal_(parameter) is not None]

    def call(x: torch.Tensor, *parameters: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(norm, dict(zip(names, parameters, strict=True)), x)

    assert torch.autograd.gradcheck(call, (x, *norm.parameters()))


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_gradients_of_activations_are_finite_differences(activation: str) -> None:
    x = torch.randn(2, 3, 8, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(MLP(8, 6, bias=True, activation=activation).double(), (x,))


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("bias", [False, True])
def test_an_mlp_is_its_definition(activation: str, bias: bool) -> None:
    mlp, x = MLP(24, 40, bias, activation), torch.randn(2, 7, 24)
    if mlp.gated:
        gate_weight, up_weight = mlp.gate_up.weight.chunk(2)
        gate_bias, up_bias = mlp.gate_up.bias.chunk(2) if bias else (None, None)
        gate, up = F.linear(x, gate_weight, gate_bias), F.linear(x, up_weight, up_bias)
    else:
        gate = up = F.linear(x, mlp.up.weight, mlp.up.bias)
    inner = ACTIVATION_DEFINITIONS[activation](gate.double(), up.double()).float()
    expected = F.linear(inner, mlp.down.weight, mlp.down.bias)
    torch.testing.assert_close(mlp(x), expected, rtol=1e-4, atol=1e-6)
    with torch.no_grad():
        torch.testing.assert_close(mlp(x), expected, rtol=1e-4, atol=1e-6)


def test_rms_norm_reduces_bfloat16_in_float32() -> None:
    """4,096 ones after a large first value: a bfloat16 sum would lose nearly all of them."""
    x = torch.ones(1, 4096, dtype=torch.bfloat16)
    x[0, 0] = 16
    out = Norm(4096).bfloat16()(x)
    assert out.dtype == torch.bfloat16
    assert out[0, 1].item() == pytest.approx((1 / ((256 + 4095) / 4096)) ** 0.5, rel=4e-3)


@pytest.mark.parametrize(("activation", "theirs_name"), [("geglu", "gelu_pytorch_tanh"), ("swiglu", "silu")])
def test_gated_mlps_equal_transformers(activation: str, theirs_name: str) -> None:
    config = LlamaConfig(hidden_size=24, intermediate_size=40, num_attention_heads=2, hidden_act=theirs_name)
    ours, theirs, x = MLP(24, 40, False, activation), LlamaMLP(config), torch.randn(2, 7, 24)
    gate, up = ours.gate_up.weight.chunk(2)
    theirs.load_state_dict({"gate_proj.weight": gate, "up_proj.weight": up, "down_proj.weight": ours.down.weight})
    torch.testing.assert_close(ours(x), theirs(x))


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("out_features", [1, 7, 64])
@pytest.mark.parametrize("shape", [(1, 24), (1, 1, 24), (24,), (3, 24)])
def test_linear_of_one_row_is_linear(shape: tuple[int, ...], out_features: int, bias: bool) -> None:
    layer, x = Linear(24, out_features, bias=bias), torch.randn(shape)
    with torch.inference_mode():
        torch.testing.assert_close(layer(x), F.linear(x, layer.weight, layer.bias))
