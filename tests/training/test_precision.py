"""Number formats: small updates are kept, reductions stay float32, and bfloat16 follows float32."""

from functools import partial

import pytest
import torch
from running import TEXT
from torch import nn

from yinggem.callbacks.last_checkpoint import LastCheckpoint
from yinggem.common.errors import UserError
from yinggem.model.attention import attention
from yinggem.model.config import ModelConfig
from yinggem.model.layers import Norm
from yinggem.model.loss import next_token_loss
from yinggem.model.rope import rotary_angles
from yinggem.model.transformer import Transformer
from yinggem.text.tokenizer import ByteTokenizer
from yinggem.training.datamodule import TextDataModule
from yinggem.training.module import LanguageModule
from yinggem.training.precision import Bfloat16Weights, check_precision, has_native_bfloat16
from yinggem.training.schedules import constant
from yinggem.training.trainer import Trainer

LENGTH = 24
ULP = 2.0**-8  # of a bfloat16, relative
pytestmark = pytest.mark.filterwarnings("ignore:This CPU emulates bfloat16")


@pytest.mark.slow
def test_updates_too_small_for_bfloat16_are_not_lost():
    """A thousand steps of a ten-thousandth of the weight, each a twentieth of what a bfloat16 can tell apart."""

    def moved(precision: str) -> torch.Tensor:
        layer = nn.Linear(4, 4, bias=False)
        nn.init.ones_(layer.weight)
        layer = layer.bfloat16() if precision == "plain bfloat16" else layer
        plugin = Bfloat16Weights()
        plugin.convert_module(layer if precision == "bf16-true" else nn.Module())
        optimizer = torch.optim.SGD(layer.parameters(), lr=1e-4)
        for _ in range(1000):
            with plugin.train_step_context():
                loss = layer(torch.eye(4, dtype=torch.float32 if precision == "32" else torch.bfloat16)).sum()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        return layer.weight.detach().float()

    assert torch.equal(moved("plain bfloat16"), torch.ones(4, 4))
    torch.testing.assert_close(moved("32"), torch.full((4, 4), 0.9), rtol=1e-4, atol=0)
    assert torch.equal(moved("bf16-true"), moved("32"))


@pytest.fixture
def train(tmp_path):
    """Trains a small model and returns the module, its losses, and the dtypes that the residual stream had."""
    (tmp_path / "text.txt").write_text(TEXT)

    def run(precision: str, steps: int, start: str | None = None, name: str = "run"):
        torch.manual_seed(0)
        model = Transformer(ModelConfig(256, 16, 2, 2, intermediate_size=24, attention_window=8))
        factory = partial(torch.optim.AdamW, lr=0.003)
        module = LanguageModule(model, ByteTokenizer(), factory, constant, LENGTH)
        dtypes, losses = set(), []
        model.norm.register_forward_hook(lambda _, inputs, out: dtypes.add(inputs[0].dtype))
        module.on_train_batch_end = lambda out, *_: losses.append(out["loss"].item())  # type: ignore[method-assign]
        data = TextDataModule(ByteTokenizer(), "text", str(tmp_path / "text.txt"), LENGTH, 8, cache_dir=str(tmp_path))
        trainer = Trainer(precision, max_steps=steps, logger=False, enable_progress_bar=False, num_sanity_val_steps=0,
                          enable_model_summary=False, accelerator="cpu", limit_val_batches=0, gradient_clip_val=1.0,
                          callbacks=[LastCheckpoint(str(tmp_path / name))])  # fmt: skip
        trainer.fit(module, data, ckpt_path=start, weights_only=True)
        return module, losses, dtypes

    return run


@pytest.mark.slow
def test_bfloat16_follows_float32(train):
    module, expected, dtypes = train("32", 40)
    assert dtypes == {torch.float32} and expected[0] - expected[-1] > 0.5
    for precision, residual in (("bf16", torch.float32), ("bf16-true", torch.bfloat16)):
        module, losses, dtypes = train(precision, 40)
        assert dtypes == {residual}
        assert {p.dtype for p in module.parameters()} == {torch.float32}
        assert losses != expected
        assert max(abs(a - b) for a, b in zip(losses, expected, strict=True)) < 0.02


def test_bfloat16_weights_go_on_with_the_same_bits(train, tmp_path):
    straight, losses, _ = train("bf16-true", 12)
    _, first, _ = train("bf16-true", 7, name="stopped")
    module, second, _ = train("bf16-true", 12, start=str(tmp_path / "stopped" / "last.ckpt"), name="stopped")
    assert first + second == losses
    pairs = zip(module.parameters(), straight.parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)


@pytest.mark.parametrize("autocast", [False, True], ids=["bf16-true", "bf16"])
def test_norm_softmax_loss_and_angles_are_computed_in_float32(autocast):
    """On bfloat16 inputs they differ from float64 by the rounding of their result, not by that of 4096 additions."""
    torch.manual_seed(0)
    size = 4096
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        x = torch.randn(3, size, dtype=torch.bfloat16)
        wide = x.double()
        expected = wide / (wide.square().mean(-1, keepdim=True) + 1e-6).sqrt()
        for grad in (True, False):
            with torch.set_grad_enabled(grad):
                torch.testing.assert_close(Norm(size)(x).double(), expected, rtol=ULP, atol=0)

        scores = torch.randn(1, 1, 1, 16, dtype=torch.bfloat16)
        keys, values = torch.randn(2, 1, 1, size, 16, dtype=torch.bfloat16).unbind()
        seen = 4000
        weights = (scores.double() @ keys[:, :, -seen:].double().mT / 4).softmax(-1)
        for backend in ("sdpa", "banded"):
            found = attention(scores, keys, values, seen, 0.0, backend).double()
            torch.testing.assert_close(found, weights @ values[:, :, -seen:].double(), rtol=ULP, atol=2e-3)

        hidden, head = torch.randn(64, 32, dtype=torch.bfloat16), torch.randn(size, 32, dtype=torch.bfloat16) / 8
        targets = torch.randint(size, (64,))
        logits = (hidden @ head.mT).double()  # rounded once, as the products are
        loss = next_token_loss(hidden, head, targets)
        assert loss.dtype == torch.float32
        torch.testing.assert_close(loss.double(), nn.functional.cross_entropy(logits, targets), rtol=1e-5, atol=0)

        cos, _ = rotary_angles(8000, 5, 64, 10000.0, torch.device("cpu"))
        turns = torch.arange(8000, 8005, dtype=torch.float64)[:, None] / 10000.0 ** (torch.arange(32) / 32).double()
        assert cos.dtype == torch.float32
        torch.testing.assert_close(cos.double().reshape(5, -1)[:, :32], turns.cos(), rtol=0, atol=2e-3)


def test_what_a_cpu_cannot_do_is_said_in_one_sentence():
    with pytest.raises(UserError, match="needs a GPU; use bf16 or 32"):
        Trainer("16", accelerator="cpu", logger=False)
    with pytest.raises(UserError, match="choose bf16, bf16-true, 16, 32 or 64"):
        Trainer("8", accelerator="cpu", logger=False)
    with pytest.raises(UserError, match="trainer=fsdp cannot train in precision 16-mixed"):
        Trainer("16", strategy="fsdp", accelerator="cpu", logger=False)


@pytest.mark.skipif(has_native_bfloat16(), reason="the CPU has bfloat16")
def test_an_emulated_bfloat16_is_told_once():
    with pytest.warns(UserWarning, match="emulates bfloat16") as told:
        check_precision("bf16-mixed", torch.device("cpu"))
    assert len(told) == 1
