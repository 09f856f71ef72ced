"""The cache changes the cost of generation and nothing else."""

import pytest
import torch

from yinggem.model.config import ModelConfig
from yinggem.model.kv_cache import KVCache
from yinggem.model.transformer import Transformer

WINDOW = 8


def make_model(window: int | None = WINDOW, kv_heads: int | None = 2) -> Transformer:
    torch.manual_seed(0)
    config = ModelConfig(
        vocab_size=61, hidden_size=32, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=kv_heads,
        intermediate_size=48, attention_window=window, initializer_range=0.2,
    )  # fmt: skip
    return Transformer(config).eval()


def through_cache(model: Transformer, tokens: torch.Tensor, cache: KVCache, chunks: list[int]) -> torch.Tensor:
    """Logits of `tokens` fed in pieces of the given lengths, then one by one."""
    chunks = chunks + [1] * (tokens.size(1) - sum(chunks))
    return torch.cat([model.head(model.hidden(piece, cache)) for piece in tokens.split(chunks, dim=1)], dim=1)


@torch.inference_mode()
@pytest.mark.parametrize("window", [1, 2, WINDOW, None])
@pytest.mark.parametrize("prompt", [1, WINDOW - 1, WINDOW, WINDOW + 1, 3 * WINDOW + 5])
def test_cached_logits_are_uncached_logits(prompt: int, window: int | None) -> None:
    """Prompts <, =, > W, then 4W generated tokens, in a batch: the receptive field is layers * (W - 1) + 1."""
    model = make_model(window)
    tokens = torch.randint(61, (3, prompt + 4 * WINDOW))
    cache = KVCache(model.config, batch_size=3)
    torch.testing.assert_close(through_cache(model, tokens, cache, [prompt]), model(tokens), rtol=0, atol=1e-4)
    assert cache.length == tokens.size(1)


@torch.inference_mode()
@pytest.mark.parametrize("window", [WINDOW, None])
@pytest.mark.parametrize(
    "chunks", [[3, 3, 3, 3, 3], [5, 2 * WINDOW, 4], [2 * WINDOW + 1, 3], [1, WINDOW, WINDOW - 1, 2], [40, 30]]
)
def test_chunks_append_to_what_is_there(chunks: list[int], window: int | None) -> None:
    model = make_model(window)
    tokens = torch.randint(61, (2, sum(chunks) + 5))
    out = through_cache(model, tokens, KVCache(model.config, 2), chunks)
    torch.testing.assert_close(out, model(tokens), rtol=0, atol=1e-4)


@torch.inference_mode()
def test_buffers_are_static_and_hold_exactly_the_window() -> None:
    model = make_model()
    cache = KVCache(model.config, 2)
    before = cache.keys.data_ptr(), cache.values.data_ptr()
    model.hidden(torch.randint(61, (2, 20)), cache)
    for _ in range(3 * WINDOW):
        model.hidden(torch.randint(61, (2, 1)), cache)
    assert cache.keys.shape == cache.values.shape == (3, 2, 2, WINDOW, 8)
    assert (cache.keys.data_ptr(), cache.values.data_ptr()) == before


@torch.inference_mode()
def test_reset_forgets() -> None:
    model, tokens = make_model(), torch.randint(61, (1, 30))
    cache = KVCache(model.config, 1)
    through_cache(model, torch.randint(61, (1, 21)), cache, [13])
    cache.reset()
    torch.testing.assert_close(through_cache(model, tokens, cache, [11]), model(tokens), rtol=0, atol=1e-4)


@torch.inference_mode()
def test_without_a_window_it_grows_in_powers_of_two() -> None:
    model = make_model(window=None)
    cache = KVCache(model.config, 1)
    model.hidden(torch.randint(61, (1, 300)), cache)
    assert cache.slots == 512
    assert KVCache(model.config, 1, slots=40).slots == 40


@torch.inference_mode()
@pytest.mark.parametrize("chunks", [[1], [3, 4], [5], [11], [2, 3, 9]])
def test_it_grows_to_the_window_and_no_further(chunks: list[int]) -> None:
    model, tokens = make_model(), torch.randint(61, (2, 40))
    cache = KVCache(model.config, 2, slots=2)
    assert cache.slots == 2 and KVCache(model.config, 2, slots=100).slots == WINDOW
    torch.testing.assert_close(through_cache(model, tokens, cache, chunks), model(tokens), rtol=0, atol=1e-4)
    assert cache.slots == WINDOW


@torch.inference_mode()
@pytest.mark.parametrize("prompt", [1, WINDOW - 1, 3 * WINDOW])
def test_an_expanded_cache_goes_on_in_every_row(prompt: int) -> None:
    model, tokens = make_model(), torch.randint(61, (3, prompt + 2 * WINDOW))
    tokens[:, :prompt] = tokens[:1, :prompt]
    cache = KVCache(model.config, 1, slots=2)
    model.hidden(tokens[:1, :prompt], cache)
    cache.expand(3)
    out = through_cache(model, tokens[:, prompt:], cache, [1])
    torch.testing.assert_close(out, model(tokens)[:, prompt:], rtol=0, atol=1e-4)


@torch.inference_mode()
def test_bfloat16_cache() -> None:
    model = make_model().bfloat16()
    tokens = torch.randint(61, (2, 40))
    out = through_cache(model, tokens, KVCache(model.config, 2, dtype=torch.bfloat16), [19])
    torch.testing.assert_close(out.float(), model(tokens).float(), rtol=0.1, atol=0.3)
