"""The LightningModule: what it computes and logs, against plain loops over the same batches."""

import math
from functools import partial
from itertools import islice
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from running import TEXT

from yinggem.common.errors import UserError
from yinggem.model.config import ModelConfig
from yinggem.model.transformer import Transformer
from yinggem.text.tokenizer import ByteTokenizer
from yinggem.training.datamodule import TextDataModule
from yinggem.training.module import LanguageModule
from yinggem.training.schedules import constant
from yinggem.training.trainer import Trainer

SHAPE: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
LENGTH = 24


@pytest.fixture
def data(tmp_path):
    """Makes the same text in windows, for some batch size."""
    path = tmp_path / "text.txt"
    path.write_text(TEXT)

    def make(batch_size: int) -> TextDataModule:
        made = TextDataModule(ByteTokenizer(), "text", str(path), LENGTH, batch_size, 5, cache_dir=str(tmp_path))
        made.setup()
        return made

    return make


def make_module(seed: int = 0, **shape) -> LanguageModule:
    torch.manual_seed(0)
    model = Transformer(ModelConfig(vocab_size=256, attention_window=8, **(SHAPE | shape)))
    return LanguageModule(model, ByteTokenizer(), partial(torch.optim.SGD, lr=0.5), constant, LENGTH, seed)


def make_trainer(**options) -> Trainer:
    settings: dict[str, Any] = {
        "max_steps": 6, "logger": False, "enable_checkpointing": False, "enable_progress_bar": False,
        "enable_model_summary": False, "accelerator": "cpu", "num_sanity_val_steps": 0, "limit_val_batches": 0,
    }  # fmt: skip
    return Trainer(**(settings | options))


def weights(module: LanguageModule) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in module.parameters()])


def test_the_loss_is_the_cross_entropy_of_the_logits():
    module, tokens = make_module(), torch.randint(256, (3, LENGTH + 1))
    inputs, targets = tokens[:, :-1], tokens[:, 1:]
    expected = F.cross_entropy(module(inputs).flatten(0, 1), targets.flatten())
    torch.testing.assert_close(module.loss((inputs, targets)), expected)


def test_validation_is_one_exact_pass(data):
    """Unequal batches and a short last window; each target counts once."""
    module, source = make_module(), data(4)
    trainer = make_trainer(limit_val_batches=1.0)
    trainer.validate(module, source, verbose=False)
    figures = {name: value.item() for name, value in trainer.callback_metrics.items()}
    ids = torch.as_tensor(source.split.val[:].astype("int64"))
    nats = 0.0
    with torch.no_grad():
        for start in range(0, len(ids) - 1, LENGTH):
            window = ids[start : start + LENGTH + 1]
            nats += F.cross_entropy(module(window[None, :-1])[0], window[1:], reduction="sum").item()
    assert len(ids) % LENGTH != 1
    assert figures["val/loss"] == pytest.approx(nats / (len(ids) - 1), rel=1e-5)
    assert figures["val/perplexity"] == pytest.approx(math.exp(nats / (len(ids) - 1)), rel=1e-5)
    assert figures["val/bits_per_byte"] == pytest.approx(nats / (len(ids) - 1) / math.log(2), rel=1e-5)  # one byte each


def test_accumulated_gradients_are_those_of_one_large_batch(data):
    """The windows of a batch of 8 come as two of 4, in the same order."""
    one, other = make_module(), make_module()
    make_trainer(max_steps=3).fit(one, data(8))
    make_trainer(max_steps=3, accumulate_grad_batches=2).fit(other, data(4))
    assert not torch.equal(weights(one), weights(make_module()))
    torch.testing.assert_close(weights(one), weights(other), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("batches", [2, 3, 4, 5])
def test_a_step_is_the_mean_gradient_of_its_batches_also_of_the_few_that_end_an_epoch(data, batches):
    """Three batches a step, against a plain loop."""
    module, plain, source = make_module(), make_module(), data(4)
    make_trainer(max_steps=-1, max_epochs=1, accumulate_grad_batches=3, limit_train_batches=batches).fit(module, source)
    source.trainer = None
    given = list(islice(source.train_dataloader(), batches))
    for start in range(0, batches, 3):
        group = given[start : start + 3]
        loss = torch.stack([plain.model.loss(*batch) for batch in group]).mean()
        gradients = torch.autograd.grad(loss, list(plain.model.parameters()))
        with torch.no_grad():
            for weight, gradient in zip(plain.model.parameters(), gradients, strict=True):
                weight.sub_(0.5 * gradient)
    torch.testing.assert_close(weights(module), weights(plain), rtol=1e-4, atol=1e-6)


def test_clipping_bounds_the_step_and_the_norm_before_it_is_kept(data):
    module = make_module()
    before = weights(module)
    make_trainer(max_steps=1, gradient_clip_val=0.01).fit(module, data(4))
    assert module.grad_norm > 0.1
    assert (weights(module) - before).norm().item() == pytest.approx(0.5 * 0.01, rel=1e-3)  # SGD: lr * gradient


def test_dropout_depends_on_seed_epoch_and_batch_alone(data):
    """Whatever was drawn before."""

    def trained(seed: int, noise: int) -> torch.Tensor:
        module = make_module(seed, dropout=0.3)
        torch.manual_seed(noise)
        make_trainer().fit(module, data(4))
        return weights(module)

    assert torch.equal(trained(0, 1), trained(0, 2))
    assert not torch.equal(trained(0, 1), trained(3, 1))


def test_a_checkpoint_of_another_model_or_vocabulary_is_refused():
    def attached(**shape) -> LanguageModule:
        module = make_module(**shape)
        module.trainer = make_trainer()
        return module

    checkpoint: dict = {}
    attached().on_save_checkpoint(checkpoint)
    attached().on_load_checkpoint(checkpoint)
    with pytest.raises(UserError, match="another model"):
        attached(hidden_size=32).on_load_checkpoint(checkpoint)
    checkpoint["yinggem"]["tokenizer"] = {"name": "char", "characters": "ab"}
    with pytest.raises(UserError, match="another tokenizer"):
        attached().on_load_checkpoint(checkpoint)
