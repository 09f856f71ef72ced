"""Evaluation against one prediction at a time, straight from the definition."""

import math

import numpy as np
import pytest
import torch
from references import nats_one_by_one

from yinggem.common.errors import UserError
from yinggem.inference.evaluation import Evaluation, evaluate
from yinggem.model.config import ModelConfig
from yinggem.model.transformer import Transformer


@pytest.fixture(scope="module")
def model() -> Transformer:
    torch.manual_seed(0)
    return Transformer(ModelConfig(256, 16, 2, 2, None, 24, attention_window=5, initializer_range=0.3)).eval()


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("length", [2, 7, 8, 9, 16, 17, 24, 25, 60])
def test_every_token_after_the_first_is_predicted_once(model, length, batch):
    ids = np.random.default_rng(length).integers(0, 256, length).astype(np.uint16)
    token_bytes = np.arange(256, dtype=np.uint16)
    found = evaluate(model, ids, token_bytes, context_length=8, batch_size=batch)
    assert (found.tokens, found.bytes) == (length - 1, int(ids[1:].sum()))
    assert found.nats == pytest.approx(nats_one_by_one(model, ids, 8), rel=1e-5)


@pytest.mark.parametrize("length", [0, 1])
def test_a_text_without_a_second_token_is_refused(model, length):
    with pytest.raises(UserError, match="nothing to predict"):
        evaluate(model, np.zeros(length, np.uint16), np.ones(256, np.uint16), 8)


def test_figures_are_their_definitions():
    figures = Evaluation(nats=16 * math.log(2), tokens=4, bytes=8)
    assert figures.loss == pytest.approx(4 * math.log(2))
    assert figures.perplexity == pytest.approx(16)
    assert figures.bits_per_byte == pytest.approx(2)
    assert Evaluation(1e9, 10, 0).perplexity == Evaluation(1e9, 10, 0).bits_per_byte == math.inf


def test_parts_of_a_text_add_up():
    one, other = Evaluation(1.5, 4, 9), Evaluation(2.25, 3, 5)
    assert one + other == Evaluation(3.75, 7, 14)
    assert Evaluation.from_tensor(one.to_tensor() + other.to_tensor()) == one + other
