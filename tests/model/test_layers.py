"""Linear, RMSNorm and GeGLU against their definitions and transformers' own layers."""

import pytest
import torch
import torch.nn.functional as F
from references import rms_norm
from transformers.models.mistral.configuration_mistral import MistralConfig
from transformers.models.mistral.modeling_mistral import MistralMLP, MistralRMSNorm

from yinggem.model.config import ModelConfig
from yinggem.model.layers import GeGLU, Linear, RMSNorm, decoding
from yinggem.model.transformer import Transformer


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
def test_rms_norm_is_its_definition(scale: float) -> None:
    norm, x = RMSNorm(48), torch.randn(2, 5, 48) * scale
    torch.nn.init.normal_(norm.weight)
    torch.testing.assert_close(norm(x), rms_norm(x, norm.weight, 1e-6).float(), rtol=1e-5, atol=1e-6)


def test_rms_norm_equals_mistral() -> None:
    ours, theirs, x = RMSNorm(48), MistralRMSNorm(48, eps=1e-6), torch.randn(2, 5, 48)
    torch.nn.init.normal_(ours.weight)
    theirs.load_state_dict(ours.state_dict())
    torch.testing.assert_close(ours(x), theirs(x))


def test_hand_written_gradients_are_finite_differences() -> None:
    norm, x = RMSNorm(8).double(), torch.randn(2, 3, 8, dtype=torch.float64, requires_grad=True)
    torch.nn.init.normal_(norm.weight)
    mlp = GeGLU(8, 6, bias=True).double()
    call = torch.func.functional_call
    assert torch.autograd.gradcheck(lambda x, weight: call(norm, {"weight": weight}, x), (x, norm.weight))
    assert torch.autograd.gradcheck(mlp, (x,))


def test_rms_norm_reduces_bfloat16_in_float32() -> None:
    """4,096 ones after a large first value: a bfloat16 sum would lose nearly all of them."""
    x = torch.ones(1, 4096, dtype=torch.bfloat16)
    x[0, 0] = 16
    out = RMSNorm(4096).bfloat16()(x)
    assert out.dtype == torch.bfloat16
    assert out[0, 1].item() == pytest.approx((1 / ((256 + 4095) / 4096)) ** 0.5, rel=4e-3)


def test_geglu_equals_mistral_mlp() -> None:
    config = MistralConfig(hidden_size=24, intermediate_size=40, hidden_act="gelu_pytorch_tanh")
    ours, theirs, x = GeGLU(24, 40, bias=False), MistralMLP(config), torch.randn(2, 7, 24)
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


@pytest.mark.parametrize("rows", [1, 4])
@pytest.mark.parametrize("tie", [True, False])
def test_layers_are_laid_out_inside_decoding_alone_and_mean_the_same(rows: int, tie: bool) -> None:
    torch.manual_seed(0)
    model = Transformer(ModelConfig(500, 256, 1, 4, tie_word_embeddings=tie)).eval()
    tokens = torch.randint(500, (rows, 1))
    with torch.no_grad():
        expected = model(tokens)
        with decoding(model, rows):
            assert model.head.product and model.blocks[0].attention.qkv.product
            torch.testing.assert_close(model(tokens), expected, rtol=0, atol=1e-5)
    assert not any(getattr(module, "product", None) for module in model.modules())


def test_gradients_are_taken_of_the_weights_not_of_their_layout() -> None:
    layer, x = Linear(256, 512), torch.randn(3, 256)
    with decoding(layer, rows=3):
        layer(x).sum().backward()
    assert layer.weight.grad is not None
    torch.testing.assert_close(layer.weight.grad, x.sum(0).expand(512, -1))
