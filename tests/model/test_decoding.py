"""A decoding step is the model itself: other layouts, the same logits."""

import pytest
import torch

from yinggem.model.config import QUANTIZATIONS, ModelConfig
from yinggem.model.decoding import DecodingStep, PreparedLayer
from yinggem.model.kv_cache import KVCache
from yinggem.model.quantization import quantize
from yinggem.model.transformer import Transformer


def make_model(**changes: object) -> Transformer:
    torch.manual_seed(0)
    return Transformer(ModelConfig(500, 256, 1, 4, attention_window=4, **changes)).eval()  # type: ignore[arg-type]


@torch.inference_mode()
@pytest.mark.parametrize("rows", [1, 4])
@pytest.mark.parametrize("tie", [True, False])
def test_matrices_are_laid_out_for_the_step_alone_and_mean_the_same(rows: int, tie: bool) -> None:
    model = make_model(tie_word_embeddings=tie, qk_norm=True)
    tokens, modules = torch.randint(500, (rows, 9)), list(model.modules())
    step = DecodingStep(model, KVCache(model.config, rows))
    logits = torch.stack([step(column) for column in tokens.unbind(1)], dim=1)
    torch.testing.assert_close(logits, model(tokens), rtol=0, atol=1e-5)
    prepared = [module for module in step.model.modules() if isinstance(module, PreparedLayer)]
    assert len(prepared) == 5, "qkv, output, gate_up, down and the head"
    assert all(one is other for one, other in zip(modules, model.modules(), strict=True))


@torch.inference_mode()
@pytest.mark.parametrize("kind", QUANTIZATIONS)
def test_quantized_layers_are_shared_with_what_they_have_packed(kind: str) -> None:
    model = quantize(make_model(), kind)
    step = DecodingStep(model, KVCache(model.config, 1))
    torch.testing.assert_close(step(torch.tensor([7])), model(torch.tensor([[7]]))[:, 0])
    for name in ("head", "blocks.0.mlp.down"):
        assert step.model.get_submodule(name) is model.get_submodule(name)


def test_a_step_leaves_the_gradients_of_its_model_alone() -> None:
    model, tokens = make_model(), torch.randint(500, (2, 5))
    model.loss(tokens, tokens).backward()
    expected = [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]
    model.zero_grad()
    with torch.no_grad():
        DecodingStep(model, KVCache(model.config, 2))(tokens[:, 0])
    model.loss(tokens, tokens).backward()
    found = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    assert len(found) == len(list(model.parameters()))
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))
