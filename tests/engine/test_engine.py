"""The engine computes what the torch model computes, and draws what it draws."""

import ctypes
import os
import threading
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, cast

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from references import philox_uniform
from torch import nn

from yinggem.common.checks import check_number
from yinggem.common.errors import UserError
from yinggem.engine import engine as module
from yinggem.engine import library
from yinggem.engine.engine import Engine, engine_refusal, sampling_refusal
from yinggem.engine.library import KERNELS, open_library
from yinggem.inference.filters import History, choose
from yinggem.inference.sampling import Sampling, setting
from yinggem.model.config import ModelConfig
from yinggem.model.kv_cache import KVCache
from yinggem.model.quantization import quantize
from yinggem.model.transformer import Transformer

SMALL = ModelConfig(
    vocab_size=70, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48,
    attention_window=16, bias=True, qk_norm=True, initializer_range=0.3,
)  # fmt: skip


def make_model(config: ModelConfig, seed: int = 0) -> Transformer:
    """Random weights everywhere: the biases and the norms too."""
    torch.manual_seed(seed)
    model = Transformer(config).eval().requires_grad_(False)
    for weights in model.parameters():
        weights.add_(0.05 * torch.randn_like(weights))
    return model


def weights_of(model: Transformer) -> dict[str, np.ndarray]:
    """Its state dict as the engine takes it."""
    bits = {torch.bfloat16: torch.uint16}
    return {name: x.view(bits.get(x.dtype, x.dtype)).numpy() for name, x in model.state_dict().items()}


def engine_of(model: Transformer, **options) -> Engine:
    return Engine(model.config, weights_of(model), **options)


@st.composite
def configs(draw) -> ModelConfig:
    """Every option, at sizes that fit no vector."""
    heads, size = draw(st.integers(1, 4)), 2 * draw(st.integers(1, 20))
    vocab = draw(st.integers(1, 150))
    return ModelConfig(
        vocab_size=vocab,
        hidden_size=heads * size,
        num_hidden_layers=draw(st.integers(1, 3)),
        num_attention_heads=heads,
        num_key_value_heads=draw(st.sampled_from([k for k in range(1, heads + 1) if heads % k == 0])),
        intermediate_size=draw(st.integers(1, 100)),
        attention_window=draw(st.sampled_from([None, 1, 2, 17, 64, 90])),
        rope_theta=draw(st.sampled_from([100.0, 10000.0])),
        rms_norm_eps=draw(st.sampled_from([1e-6, 1e-3])),
        bias=draw(st.booleans()),
        qk_norm=draw(st.booleans()),
        head_bias=draw(st.sampled_from([None, False, True])),
        tie_word_embeddings=draw(st.booleans()),
        document_end=draw(st.sampled_from([None, None, 0, vocab // 2])),
        activation=draw(st.sampled_from(module.ACTIVATIONS)),
        norm=draw(st.sampled_from(module.NORMS)),
        initializer_range=0.15,
    )


def kernels() -> list[str]:
    """Those that this processor has."""
    library = open_library()
    if isinstance(library, str):
        return []
    return [name for name in ("plain", "avx2", "avx512", "avx512vnni", "neon") if library.engine_kernels(name.encode())]


@pytest.mark.slow
@settings(max_examples=20, deadline=None)
@given(config=configs(), threads=st.integers(1, 3), seed=st.integers(0, 99), data=st.data())
def test_logits_are_the_model_s_past_three_windows_however_the_text_is_read(config, threads, seed, data):
    model = make_model(config, seed)
    ids = torch.randint(config.vocab_size, (3 * (config.attention_window or 50) + 20,))
    expected = model(ids[None])[0]
    cut = data.draw(st.integers(1, len(ids) - 1), label="cut")
    name = data.draw(st.sampled_from(kernels()), label="kernels")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(KERNELS, name)
        engine = engine_of(model, rows=3, threads=threads)
    assert engine.kernels == name
    whole = engine.read(0, ids.numpy())
    assert np.abs(whole - expected[-1].numpy()).max() < 1e-4
    assert np.abs(engine.read(1, ids[:cut].numpy()) - expected[cut - 1].numpy()).max() < 1e-4
    engine.copy(1, 2)
    for token in ids[cut:].tolist():
        beside = engine.step([2, 1], [0, token])[1]
    assert (beside == whole).all()  # to the bit: in blocks, step by step, beside another text
    nats = -expected.log_softmax(-1)[:-1].gather(1, ids[1:, None])[:, 0].numpy()
    assert np.abs(engine.score(ids.numpy()) - nats).max() < 1e-4


@pytest.mark.parametrize("window", [None, 16])
def test_a_token_sees_nothing_of_the_documents_before_its_own(window):
    config = replace(SMALL, attention_window=window, document_end=9, head_bias=False)
    model = make_model(config)
    ids = torch.randint(10, 70, (120,))
    ids[[0, 30, 31, 90]] = 9
    expected = model(ids[None])[0]
    engine = engine_of(model, rows=2)
    for at in range(1, len(ids)):
        logits = engine.step([0], ids[at : at + 1].tolist())[0] if at > 1 else engine.read(0, ids[:2].numpy())
        assert np.abs(logits - expected[at].numpy()).max() < 1e-4
    engine.copy(0, 1)
    copied, own = engine.step([1, 0], [3, 3])
    assert (copied == own).all()
    ids[:30] = torch.randint(10, 70, (30,))
    engine.reset(1)
    assert (engine.read(1, ids[:91].numpy()) == engine_of(model).read(0, ids[:91].numpy())).all()
    assert np.abs(engine.read(1, ids[91:].numpy()) - expected[-1].numpy()).max() < 1e-4


def torch_text(
    model: Transformer, prompt: list[int], sampling: Sampling, seed: int, count: int, spared: int | None
) -> list[int]:
    """The ids that torch's logits, the filters of numpy and an independent generator draw."""
    cache, history = KVCache(model.config, 1), History(prompt, model.config.vocab_size, sampling, spared)
    drawn: list[int] = []
    logits = model.next_logits(torch.tensor([prompt]), cache)
    for position in range(count):
        drawn.append(choose(logits[0].numpy(), sampling, history, philox_uniform(seed, position)))
        history.add(drawn[-1])
        logits = model.next_logits(torch.tensor([drawn[-1:]]), cache)
    return drawn


@pytest.mark.slow
@settings(max_examples=20, deadline=None)
@given(
    sampling=st.builds(
        Sampling,
        temperature=st.sampled_from([0.0, 0.5, 0.9, 2.0]),
        top_k=st.sampled_from([None, 1, 5, 50, 1000]),
        top_p=st.sampled_from([None, 0.5, 0.85, 0.99]),
        min_p=st.sampled_from([None, 0.05, 0.2, 1.0]),
        typical_p=st.sampled_from([None, 0.3, 0.9]),
        repetition_penalty=st.sampled_from([1.0, 1.2, 5.0, 0.5]),
        repetition_window=st.sampled_from([None, 0, 3, 20]),
        no_repeat_ngram_size=st.sampled_from([0, 0, 1, 2, 3]),
    ),
    prompt=st.lists(st.integers(0, 69), min_size=1, max_size=30),
    seed=st.integers(0, 2**64 - 1),
    parts=st.lists(st.integers(1, 12), min_size=1, max_size=5),
    spared=st.sampled_from([None, 0, 5]),
)
def test_texts_are_those_of_torch_with_every_setting_in_whatever_pieces(sampling, prompt, seed, parts, spared):
    model = make_model(SMALL)
    drawn: list[int] = []
    engine = engine_of(model)
    engine.read(0, prompt)
    for count in parts:
        drawn += engine.generate(0, sampling, seed, prompt + drawn, len(drawn), count, spared)
    assert drawn == torch_text(model, prompt, sampling, seed, sum(parts), spared)


def test_a_row_goes_on_after_what_was_drawn():
    model = make_model(SMALL)
    engine = engine_of(model, rows=3)
    engine.read(0, [1, 2, 3])
    drawn = engine.generate(0, Sampling(), 5, [1, 2, 3], 0, 4)
    engine.copy(0, 1)
    text = [1, 2, 3, *drawn, 6]
    expected = engine.read(2, text)
    assert (engine.step([0], [6])[0] == expected).all() and (engine.read(1, [6]) == expected).all()
    engine.reset(1)
    assert (engine.read(1, text) == expected).all()


def round_inputs(module: nn.Module, inputs: tuple[torch.Tensor]) -> torch.Tensor:
    """A hook: every vector becomes 127 whole multiples of a scale of its own, to either side."""
    scale = inputs[0].abs().amax(-1, keepdim=True) / 127
    return (inputs[0] / scale).round() * scale


@pytest.mark.parametrize("name", kernels())
@pytest.mark.parametrize("kind", ["int8", "int4"])
def test_integers_given_or_rounded_here_mean_what_torch_reads_in_them(kind, name, monkeypatch):
    monkeypatch.setenv(KERNELS, name)
    config = replace(SMALL, hidden_size=96, num_attention_heads=3, intermediate_size=50)  # down stays in 8 bits
    model, expected = make_model(config), make_model(config)
    rounded_here = engine_of(model, storage=kind)
    given = engine_of(quantize(model, kind))
    ids = np.random.default_rng(0).integers(0, config.vocab_size, 60)
    logits = given.read(0, ids)
    assert (rounded_here.read(0, ids) == logits).all()
    for place, layer in list(expected.named_modules()):
        if isinstance(layer, nn.Linear | nn.Embedding):
            layer.weight.copy_(cast(torch.Tensor, model.get_submodule(place).weight))
        if isinstance(layer, nn.Linear):
            layer.register_forward_pre_hook(round_inputs)
    exact = expected(torch.from_numpy(ids)[None])[0, -1].numpy()
    assert np.abs(logits - exact).max() < 0.02 * exact.std()  # of 127 steps one may go the other way


@pytest.mark.parametrize(
    "options", [{}, {"num_attention_heads": 4, "num_key_value_heads": 1, "norm": "layer"}], ids=str
)
def test_eight_bits_are_the_same_to_the_bit_on_every_processor(options, monkeypatch):
    config = replace(SMALL, hidden_size=176, **options)
    model, ids = make_model(config), torch.randint(config.vocab_size, (60,)).numpy()
    found = set()
    for name in kernels():
        monkeypatch.setenv(KERNELS, name)
        found.add(engine_of(model, storage="int8").read(0, ids).tobytes())
    assert len(found) == 1


def test_bfloat16_rounds_the_weights_and_nothing_else():
    model = make_model(SMALL)
    engine, rounded = engine_of(model, storage="bfloat16"), make_model(SMALL)
    with torch.no_grad():
        for weights in rounded.parameters():
            if weights.ndim > 1:
                weights.copy_(weights.bfloat16().float())
    ids = list(range(40))
    assert np.abs(engine.read(0, ids) - rounded(torch.tensor([ids]))[0, -1].numpy()).max() < 1e-4


def test_mistakes_are_answered_in_a_sentence_and_not_by_a_crash():
    model = make_model(SMALL)
    engine, weights = engine_of(model, rows=2), weights_of(model)
    mistakes: list[Any] = [[], [70], [-1], [0.5], [[1]], [2**40]]
    for bad in mistakes:
        with pytest.raises(ValueError, match="ids must be"):
            engine.read(0, bad)
    for row in (2, -1):
        with pytest.raises(ValueError, match="There is no row"):
            engine.read(row, [1])
    with pytest.raises(ValueError, match="different rows"):
        engine.step([0, 0], [1, 1])
    with pytest.raises(ValueError, match="has the row any ids"):
        engine.generate(0, Sampling(), 0, [1], 0, 1)
    with pytest.raises(ValueError, match="rows must be"):
        engine_of(model, rows=65)
    with pytest.raises(ValueError, match="storage must be"):
        engine_of(model, storage="int3")
    with pytest.raises(ValueError, match="have no head"):
        Engine(SMALL, {name: x for name, x in weights.items() if name != "head.bias"})
    with pytest.raises(ValueError, match="must be of shape"):
        Engine(SMALL, weights | {"norm.weight": np.ones(31, np.float32)})
    with pytest.raises(TypeError, match="must be a numpy array of float32"):
        Engine(SMALL, weights | {"norm.weight": np.ones(32)})
    engine.close()
    engine.close()
    with pytest.raises(RuntimeError, match="closed"):
        engine.read(0, [1])


def test_it_holds_its_own_copy_of_the_weights():
    weights = {name: x.copy() for name, x in weights_of(make_model(SMALL)).items()}
    engine = Engine(SMALL, weights)
    before = engine.read(0, [1, 2])
    for array in weights.values():
        array.fill(np.nan)
    engine.reset(0)
    assert (engine.read(0, [1, 2]) == before).all()


@pytest.mark.parametrize("kind", ["float32", "int8", "int4"])
def test_weights_that_are_lent_mean_the_same(kind):
    # The last rows of embedding and head are no block of eight.
    model = make_model(replace(SMALL, vocab_size=61, hidden_size=64, num_attention_heads=2))
    if kind != "float32":
        quantize(model, kind)
    weights = {name: x.copy() for name, x in weights_of(model).items()}
    lent, copied = (Engine(model.config, weights, storage=kind, lend=lend) for lend in (True, False))
    ids = np.random.default_rng(0).integers(0, model.config.vocab_size, 70)
    before = copied.read(0, ids)
    assert (lent.read(0, ids) == before).all()
    copied.reset(0)
    lent.reset(0)
    for token in np.tile(ids, 2):  # until they have been moved to memory of the engine
        assert (lent.step([0], [token]) == copied.step([0], [token])).all()


def test_weights_that_are_lent_are_not_copied_for_a_short_text():
    model = make_model(replace(SMALL, hidden_size=64, num_attention_heads=2))
    weights = {name: x.copy() for name, x in weights_of(model).items()}
    engine = Engine(model.config, weights, lend=True)
    before = engine.read(0, [1, 2])
    for array in weights.values():
        array.fill(0)
    engine.reset(0)
    assert not (engine.read(0, [1, 2]) == before).all()


def test_output_that_is_not_finite_is_a_user_s_error():
    model = make_model(SMALL)
    model.norm.weight.fill_(float("nan"))
    engine = engine_of(model)
    engine.read(0, [1])
    with pytest.raises(UserError, match="NaN or infinite"):
        engine.generate(0, Sampling(), 0, [1], 0, 1)


def test_two_threads_of_one_process_take_turns():
    model = make_model(SMALL)
    engine, texts = engine_of(model, rows=4, threads=2), [list(range(row, row + 30)) for row in range(4)]
    found: dict[int, np.ndarray] = {}

    def read(row: int) -> None:
        for token in texts[row]:
            found[row] = engine.read(row, [token])

    readers = [threading.Thread(target=read, args=(row,)) for row in range(4)]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join()
    alone = engine_of(model)
    for row, text in enumerate(texts):
        alone.reset(0)
        assert (alone.read(0, text) == found[row]).all()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_a_forked_child_is_told_to_make_its_own_engine():
    model = make_model(SMALL)
    engine = engine_of(model, threads=2)
    child = os.fork()
    if not child:
        try:
            engine.read(0, [1])
        except RuntimeError as error:
            engine.close()
            os._exit(0 if "forked" in str(error) else 1)
        os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    engine.read(0, [1])


def test_an_option_or_a_setting_that_it_does_not_know_is_named():
    @dataclass(frozen=True)
    class Later(ModelConfig):
        value_embeddings: bool = False

    @dataclass(frozen=True)
    class More(Sampling):
        epsilon: float | None = setting(None, "", partial(check_number, optional=True))

    assert engine_refusal(SMALL) is None and engine_refusal(Later(70)) is None and sampling_refusal(More()) is None
    assert "value_embeddings" in str(engine_refusal(Later(70, value_embeddings=True)))
    assert "epsilon" in str(sampling_refusal(More(epsilon=0.1)))


def test_kernels_that_are_not_there_are_named(monkeypatch):
    monkeypatch.setenv(KERNELS, "altivec")
    assert "altivec" in str(engine_refusal(SMALL))
    with pytest.raises(UserError, match="altivec"):
        engine_of(make_model(SMALL))


def test_frequencies_are_those_of_the_model():
    from yinggem.model.rope import rotary_angles

    for size in (2, 6, 64, 128):
        config = replace(SMALL, hidden_size=2 * size)
        cosines = rotary_angles(1, 1, size, config.rope_theta, torch.device("cpu"))[0].flatten()[: size // 2]
        assert np.allclose(np.cos(module.rotary_frequencies(config)), cosines.numpy(), atol=1e-7)


def test_structures_are_as_large_as_their_fields():
    """No padding that C and Python could disagree on."""
    for structure in (library.Shape, library.SamplingSettings):
        sizes = [ctypes.sizeof(field[1]) for field in structure._fields_]
        assert ctypes.sizeof(structure) - sum(sizes) < 8
