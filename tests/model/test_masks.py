"""Masked documents: no token sees another document, by every kernel, and each is as if it stood alone."""

import itertools
from typing import Any

import pytest
import torch

from yinggem.common.errors import UserError
from yinggem.model.attention import BACKENDS
from yinggem.model.config import ModelConfig
from yinggem.model.kv_cache import KVCache
from yinggem.model.transformer import Transformer

END, LENGTH = 19, 150
SHAPE: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}


def model(window: int | None, backend: str = "auto", **options: Any) -> Transformer:
    torch.manual_seed(0)
    config = ModelConfig(20, attention_window=window, initializer_range=0.3, document_end=END, **(SHAPE | options))
    return Transformer(config, backend).eval()


@pytest.fixture
def tokens() -> torch.Tensor:
    ids = torch.randint(END, (2, LENGTH), generator=torch.Generator().manual_seed(1))
    ids[0, [0, 20, 21, 90, 140]] = END
    ids[1, [5, 70]] = END
    return ids


def documents(row: torch.Tensor) -> list[slice]:
    """Each document with the end of the one before, which it begins with."""
    starts = sorted({0, *torch.nonzero(row == END)[:, 0].tolist()})
    return [slice(start, stop) for start, stop in itertools.pairwise([*starts, len(row)])]


@pytest.mark.slow
@pytest.mark.parametrize("window", [None, 7, 40])
@pytest.mark.parametrize("backend", BACKENDS)
@torch.no_grad()
def test_each_document_is_as_if_it_stood_alone(tokens, window, backend):
    """Up to rounding: the angles of RoPE are others, their differences the same."""
    network, reference = (model(window, name, num_key_value_heads=2) for name in (backend, "sdpa"))
    together = network(tokens)
    for number, row in enumerate(tokens):
        for place in documents(row):
            torch.testing.assert_close(together[number, place], reference(row[None, place])[0], atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_a_token_changes_no_logit_of_another_document(tokens):
    network = model(40, "banded")
    before, changed = network(tokens), tokens.clone()
    changed[0, 30] = (changed[0, 30] + 1) % END
    differs = (network(changed) != before).any(-1)
    assert differs[0, 30] and not differs[0, 90:].any() and not differs[0, :30].any() and not differs[1].any()


def test_gradients_are_those_of_the_plain_mask(tokens):
    networks = [model(7, backend, num_key_value_heads=2) for backend in ("banded", "sdpa")]
    for network in networks:
        network.train().loss(tokens[:, :-1], tokens[:, 1:]).backward()
    for one, other in zip(*(network.parameters() for network in networks), strict=True):
        torch.testing.assert_close(one.grad, other.grad, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("window", [None, 7])
@torch.no_grad()
def test_cached_is_uncached_in_any_pieces(tokens, window):
    network = model(window)
    expected, cache, place = network(tokens), KVCache(network.config, 1, slots=4), 0
    cache.expand(1)
    for size in [60, 1, 1, 30, 1, *[1] * 57]:
        if place == 60:
            cache.expand(2)  # the rows part here
        part = tokens[: cache.keys.size(1), place : place + size]
        place += size
        logits = network.next_logits(part, cache)
        torch.testing.assert_close(logits[:1], expected[:1, place - 1], atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_without_the_setting_a_token_sees_all_before_it(tokens):
    masked, plain = model(None), Transformer(ModelConfig(20, attention_window=None, **SHAPE)).eval()
    plain.load_state_dict(masked.state_dict())
    assert not torch.equal(plain(tokens), masked(tokens))
    alone = torch.where(tokens == END, 0, tokens)
    torch.testing.assert_close(plain(alone), masked(alone))


@pytest.mark.parametrize("end", [-1, 20, 1.5, True])
def test_an_end_outside_the_vocabulary_is_refused(end):
    with pytest.raises(UserError, match=r"model\.document_end"):
        ModelConfig(20, document_end=end, **SHAPE)
