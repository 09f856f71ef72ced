"""Filters against the logits processors of transformers; the loop, on both engines, against uncached logits."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from running import sized
from torch import Tensor
from transformers import (
    MinPLogitsWarper,
    NoRepeatNGramLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
    TypicalLogitsWarper,
)

from yinggem.common.errors import UserError
from yinggem.engine.engine import Engine, engine_refusal
from yinggem.inference.completion import StopStrings, complete, complete_text
from yinggem.inference.draws import uniform
from yinggem.inference.filters import FILTERS, History, choose, left_to_draw
from yinggem.inference.generation import Network, generate
from yinggem.inference.networks import torch_network
from yinggem.inference.networks.engine_network import EngineNetwork
from yinggem.inference.networks.torch_network import TorchNetwork
from yinggem.inference.sampling import Sampling
from yinggem.model.config import ModelConfig
from yinggem.model.kernels.matmul import prepare_linear
from yinggem.model.transformer import Transformer
from yinggem.text.tokenizer import ByteTokenizer, CharTokenizer

OFF: dict[str, Any] = {"temperature": 1.0, "top_p": None, "repetition_penalty": 1.0}
GREEDY = Sampling(temperature=0.0, repetition_penalty=1.0)


def small_model(vocab_size: int = 256, window: int | None = 8, seed: int = 0) -> Transformer:
    torch.manual_seed(seed)
    config = ModelConfig(vocab_size, 32, 2, 4, 2, 48, attention_window=window, initializer_range=0.2)
    return Transformer(config).eval()


def in_c(model: Transformer) -> EngineNetwork:
    weights = {name: tensor.detach().float().numpy() for name, tensor in model.state_dict().items()}
    return EngineNetwork(model.config, lambda: Engine(model.config, weights, rows=9))


def in_c_drawn_here(model: Transformer) -> EngineNetwork:
    """As with a memory or a limit on copies: C computes, and the loop draws."""
    network = in_c(model)
    network.draws = lambda sampling, steps: False  # type: ignore[method-assign]
    return network


Engines = Callable[[Transformer], Network]
ENGINES: dict[str, Engines] = {"torch": TorchNetwork, "C": in_c, "C and numpy": in_c_drawn_here}


@pytest.fixture(params=ENGINES)
def engine(request) -> Engines:
    if request.param != "torch" and (refusal := engine_refusal(ModelConfig(1))):
        pytest.skip(refusal)
    return ENGINES[request.param]


def random_logits(rows: int = 3, size: int = 900, spread: float = 3.0, seed: int = 0) -> Tensor:
    return torch.randn(rows, size, generator=torch.Generator().manual_seed(seed)) * spread


def filtered(logits: Tensor, ids: Tensor, **changes: Any) -> Tensor:
    sampling = Sampling(**(OFF | changes))
    histories = [History(row.tolist(), logits.size(1), sampling) for row in ids]
    return left(logits, sampling, histories)


def left(logits: Tensor, sampling: Sampling, histories: list[History]) -> Tensor:
    """Every row with -inf for what may not be drawn."""
    out = torch.full_like(logits, -torch.inf)
    for row, history, into in zip(logits.numpy(), histories, out, strict=True):
        kept, values = left_to_draw(row, sampling, history)
        into[kept] = torch.from_numpy(values)
    return out


def assert_same_distribution(ours: Tensor, theirs: Tensor) -> None:
    assert torch.equal(ours.isneginf(), theirs.isneginf())
    torch.testing.assert_close(ours.softmax(-1), theirs.softmax(-1))


PEERS = [
    ({"temperature": 0.3}, lambda: TemperatureLogitsWarper(0.3)),
    ({"temperature": 2.5}, lambda: TemperatureLogitsWarper(2.5)),
    ({"top_k": 1}, lambda: TopKLogitsWarper(1)),
    ({"top_k": 50}, lambda: TopKLogitsWarper(50)),
    ({"top_k": 10**6}, lambda: TopKLogitsWarper(10**6)),
    ({"top_p": 0.001}, lambda: TopPLogitsWarper(0.001)),
    ({"top_p": 0.5}, lambda: TopPLogitsWarper(0.5)),
    ({"top_p": 0.999}, lambda: TopPLogitsWarper(0.999)),
    ({"min_p": 0.05}, lambda: MinPLogitsWarper(0.05)),
    ({"min_p": 1.0}, lambda: MinPLogitsWarper(1.0)),
    ({"typical_p": 0.2}, lambda: TypicalLogitsWarper(0.2)),
    ({"typical_p": 0.95}, lambda: TypicalLogitsWarper(0.95)),
    ({"repetition_penalty": 1.3}, lambda: RepetitionPenaltyLogitsProcessor(1.3)),
    ({"repetition_penalty": 0.7}, lambda: RepetitionPenaltyLogitsProcessor(0.7)),
    ({"no_repeat_ngram_size": 1}, lambda: NoRepeatNGramLogitsProcessor(1)),
    ({"no_repeat_ngram_size": 2}, lambda: NoRepeatNGramLogitsProcessor(2)),
    ({"no_repeat_ngram_size": 4}, lambda: NoRepeatNGramLogitsProcessor(4)),
]


@pytest.mark.parametrize(("setting", "peer"), PEERS, ids=[str(setting) for setting, _ in PEERS])
@pytest.mark.parametrize("spread", [0.05, 3.0])  # flat rows reach past the likeliest 256 tokens, peaked ones do not
def test_each_filter_means_what_transformers_means(setting, peer, spread):
    ids = torch.randint(0, 6, (3, 40), generator=torch.Generator().manual_seed(1))
    logits = random_logits(spread=spread)
    assert_same_distribution(filtered(logits, ids, **setting), peer()(ids, logits.clone()))


def test_filters_together_apply_in_the_order_of_transformers():
    ids = torch.randint(0, 900, (3, 300), generator=torch.Generator().manual_seed(1))
    expected = random_logits()
    peers = [RepetitionPenaltyLogitsProcessor(1.3), NoRepeatNGramLogitsProcessor(1), TemperatureLogitsWarper(0.8)]
    peers += [TopKLogitsWarper(200), TopPLogitsWarper(0.9), MinPLogitsWarper(0.01), TypicalLogitsWarper(0.8)]
    for peer in peers:
        expected = peer(ids, expected)
    settings_ = {"repetition_penalty": 1.3, "no_repeat_ngram_size": 1, "temperature": 0.8, "top_k": 200}
    ours = filtered(random_logits(), ids, **settings_, top_p=0.9, min_p=0.01, typical_p=0.8)
    assert_same_distribution(ours, expected)


@pytest.mark.parametrize("off", [
    {"top_k": 0}, {"top_k": None}, {"top_p": 1}, {"top_p": None}, {"min_p": 0}, {"typical_p": 1.0},
    {"repetition_penalty": 1}, {"no_repeat_ngram_size": 0}, {"repetition_penalty": 5.0, "repetition_window": 0},
], ids=str)  # fmt: skip
def test_the_values_that_other_programs_read_as_off_are_off(off):
    ids = torch.randint(0, 12, (2, 30), generator=torch.Generator().manual_seed(2))
    sampling = Sampling(**(OFF | off))
    histories = [History(row[:20], 12, sampling) for row in ids.tolist()]
    for history, row in zip(histories, ids.tolist(), strict=True):
        for token in row[20:]:
            history.add(token)
    logits = random_logits(2, 12)
    assert_same_distribution(left(logits, sampling, histories), logits)


@pytest.mark.parametrize("window", [1, 3, 7, 100])
def test_a_repetition_window_is_the_penalty_on_the_last_ids_alone(window):
    ids = torch.randint(0, 12, (2, 30), generator=torch.Generator().manual_seed(2))
    sampling = Sampling(**(OFF | {"repetition_penalty": 1.5, "repetition_window": window}))
    histories = [History(row[:4], 12, sampling) for row in ids.tolist()]
    for column in range(4, ids.size(1)):
        logits = random_logits(2, 12, seed=column)
        seen = ids[:, max(0, column - window) : column]
        expected = RepetitionPenaltyLogitsProcessor(1.5)(seen, logits.clone())
        assert_same_distribution(left(logits, sampling, histories), expected)
        for history, token in zip(histories, ids[:, column].tolist(), strict=True):
            history.add(token)


@given(
    st.integers(1, 40),
    st.sampled_from([0.0, 1e-6, 0.01, 1.0, 1e6]),
    st.none() | st.integers(1, 50),
    st.none() | st.floats(1e-9, 1),
    st.none() | st.floats(0, 1),
    st.none() | st.floats(1e-9, 1),
    st.sampled_from([0.01, 1.0, 100.0]),
    st.integers(0, 3),
    st.sampled_from([0.0, 1.0, 1e4, 1e30]),
)
@settings(max_examples=300, deadline=None)
def test_whatever_the_settings_a_token_remains(size, temperature, k, p, least, typical, penalty, ngram, spread):
    ids = torch.arange(60).remainder(size).view(1, -1)
    logits = random_logits(1, size, spread)
    sampling = Sampling(
        temperature=temperature, top_k=k, top_p=p, min_p=least, typical_p=typical, repetition_penalty=penalty,
        no_repeat_ngram_size=ngram,
    )  # fmt: skip
    history = History(ids[0].tolist(), size, sampling)
    kept, values = left_to_draw(logits[0].numpy(), sampling, history)
    assert len(kept) == len(values) > 0 and np.isfinite(values).all() and (np.diff(kept) > 0).all()
    assert choose(logits[0].numpy(), sampling, history, 0.5) in kept


def test_every_filter_has_a_setting_of_its_name():
    on = Sampling(top_k=5, top_p=0.5, min_p=0.5, typical_p=0.5)
    assert [name for name, _ in on.filters()] == [*FILTERS]


@pytest.mark.slow
def test_draws_follow_the_distribution():
    logits = torch.tensor([[0.0, 1.0, 2.0, -torch.inf, -1.0]])
    draws = 6_000
    counts = torch.zeros(5)
    plain = Sampling(**OFF)
    for position in range(draws):
        counts[choose(logits[0].numpy(), plain, History([], 5, plain), uniform(0, position))] += 1
    expected = logits.softmax(-1)[0]
    error = (expected * (1 - expected) / draws).sqrt()
    assert ((counts / draws - expected).abs() <= 4.5 * error).all()


def uncached(model: Transformer, prompt: Tensor, steps: int, choose) -> Tensor:
    """The loop as the definition has it: the whole text through the model for every token."""
    ids = prompt
    with torch.no_grad():
        for _ in range(steps):
            ids = torch.cat((ids, choose(model(ids)[:, -1].float())[:, None]), dim=1)
    return ids[:, prompt.size(1) :]


def generated(network: Network, prompt: Tensor, steps: int, sampling: Sampling, seeds: list[int]) -> Tensor:
    return torch.tensor([*generate(network, prompt.numpy(), steps, sampling, seeds)]).T


@pytest.mark.slow
@pytest.mark.parametrize("window", [None, 1, 8, 1000])
@pytest.mark.parametrize("length", [1, 7, 8, 9, 30])
def test_greedy_text_is_that_of_the_uncached_model(window, length, engine):
    model = small_model(window=window)
    prompt = torch.randint(0, 256, (2, length), generator=torch.Generator().manual_seed(length))
    expected = uncached(model, prompt, 30, lambda logits: logits.argmax(-1))
    assert torch.equal(generated(engine(model), prompt, 30, GREEDY, [0, 0]), expected)


def test_a_prompt_longer_than_one_prefill_part_gives_the_same_text(monkeypatch):
    model, prompt = small_model(), torch.randint(0, 256, (1, 50))
    whole = generated(TorchNetwork(model), prompt, 20, GREEDY, [0])
    monkeypatch.setattr(torch_network, "PREFILL", 7)
    assert torch.equal(generated(TorchNetwork(model), prompt, 20, GREEDY, [0]), whole)


def test_sampled_text_draws_from_the_uncached_model_with_all_filters(engine):
    model = small_model()
    prompt = torch.randint(0, 256, (1, 12), generator=torch.Generator().manual_seed(3))
    sampling = Sampling(repetition_window=5, no_repeat_ngram_size=2, top_k=40, min_p=0.01, typical_p=0.9)
    ids = prompt
    with torch.no_grad():
        for position in range(40):
            history = History(ids[0].tolist(), 256, sampling)
            token = choose(model(ids)[0, -1].numpy(), sampling, history, uniform(5, position))
            ids = torch.cat((ids, torch.tensor([[token]])), dim=1)
    assert torch.equal(generated(engine(model), prompt, 40, sampling, [5]), ids[:, 12:])


@pytest.mark.slow
@pytest.mark.parametrize("same_prompt", [True, False])
def test_a_sample_does_not_depend_on_its_batch(same_prompt, engine):
    model = engine(small_model())
    prompts = torch.randint(0, 256, (8, 12), generator=torch.Generator().manual_seed(4))
    prompts = prompts[:1].expand(8, -1) if same_prompt else prompts
    sampling = Sampling(repetition_window=20, no_repeat_ngram_size=3)
    together = generated(model, prompts, 60, sampling, list(range(100, 108)))
    for row in range(8):
        alone = generated(model, prompts[row : row + 1], 60, sampling, [100 + row])
        assert torch.equal(alone[0], together[row])
    assert len({tuple(row.tolist()) for row in together}) == 8


def test_no_ngram_occurs_twice(engine):
    model, prompt = engine(small_model(vocab_size=6)), torch.tensor([[1, 2, 1]])
    ids = [*prompt[0].tolist(), *generated(model, prompt, 150, Sampling(no_repeat_ngram_size=3), [0])[0].tolist()]
    grams = list(zip(ids, ids[1:], ids[2:], strict=False))
    assert len(set(grams)) == len(grams) == 151


def test_generation_leaves_gradients_on_for_its_caller():
    steps = iter(generate(TorchNetwork(small_model()), np.array([[1]]), 3, Sampling(), [0]))
    next(steps)
    assert torch.is_grad_enabled() and not torch.is_inference_mode_enabled()


def test_a_diverged_model_is_named(engine):
    model = small_model()
    model.norm.weight.data.fill_(float("nan"))
    with pytest.raises(UserError, match="diverged"):
        generated(engine(model), torch.tensor([[1]]), 3, Sampling(), [0])


@pytest.mark.parametrize(
    "bad",
    [
        {"temperature": -0.1}, {"temperature": float("nan")}, {"temperature": "1"}, {"top_p": 0.0}, {"top_p": 1.1},
        {"top_k": -1}, {"top_k": 2.5}, {"min_p": -0.1}, {"typical_p": 0}, {"repetition_penalty": 0.0},
        {"repetition_penalty": float("inf")}, {"repetition_window": -1}, {"no_repeat_ngram_size": -1}, {"top_k": True},
    ],
)  # fmt: skip
def test_settings_out_of_range_are_refused_by_name(bad):
    with pytest.raises(UserError, match=next(iter(bad))):
        Sampling(**bad)


def cut(text: str, stops: list[str]) -> str:
    """Independently: the shortest beginning that ends in a stop string, without it; the longest such stop."""
    for end in range(len(text) + 1):
        found = [stop for stop in stops if text[:end].endswith(stop)]
        if found:
            return text[: end - max(map(len, found))]
    return text


@given(st.lists(st.text("ab", max_size=4), max_size=12), st.lists(st.text("ab", min_size=1, max_size=5), max_size=3))
@settings(max_examples=500, deadline=None)
def test_stop_strings_cut_alike_however_the_text_arrives(pieces, stops):
    matcher, out = StopStrings(stops), []
    for piece in pieces:
        out.append(matcher.push(piece))
        sent = "".join(out)
        if not matcher.found:  # nothing that is certain is held back
            arrived = "".join(pieces[: len(out)])
            assert not arrived[len(sent) :] or any(stop.startswith(arrived[len(sent) :]) for stop in stops)
    out.append(matcher.finish())
    assert "".join(out) == cut("".join(pieces), stops)


def test_samples_beyond_the_rows_of_an_engine_follow_and_are_the_same():
    tokenizer, model = ByteTokenizer(), small_model()

    def texts(network: Network, seeds: list[int]) -> list[str]:
        found = {number: done for number, _, done in complete(network, tokenizer, "x", 9, Sampling(), seeds)}
        assert [*sorted(found)] == [*range(len(seeds))]
        return [found[number].text for number in sorted(found)]

    narrow = TorchNetwork(model)
    narrow.most_rows = 2
    together = texts(TorchNetwork(model), [*range(5)])
    assert texts(narrow, [*range(5)]) == together and len({*together}) == 5
    if not engine_refusal(model.config):
        network = in_c(model)
        network.most_rows = 2
        assert texts(network, [*range(5)]) == together


def test_texts_of_one_engine_do_not_disturb_each_other():
    if refusal := engine_refusal(ModelConfig(1)):
        pytest.skip(refusal)
    network, prompt, wide = in_c(small_model()), np.array([[1, 2]]), np.array([[1, 2]] * 6)
    alone = [*generate(network, prompt, 30, Sampling(), [4])]
    one, other = (iter(generate(network, wide, 30, Sampling(), range(seed, seed + 6))) for seed in (4, 2))
    drawn = [(next(one), next(other)) for _ in range(30)]  # twelve rows, of engines of nine
    assert [left[0] for left, _ in drawn] == [right[2] for _, right in drawn] == [token for (token,) in alone]
    del one, other
    assert sorted(len(free) for _, free in network._free) == [9, 9]


def test_a_stop_string_ends_one_sample_and_not_the_others(engine):
    model, tokenizer = engine(small_model()), ByteTokenizer()
    free = {}
    for number, _, done in complete(model, tokenizer, "x", 40, Sampling(), range(3)):
        free[number] = done
    assert [done.finish_reason for done in free.values()] == ["length"] * 3
    assert all(len(done.tokens) == 40 for done in free.values())
    readable = next(c for c in free[0].text[10:] if c.isascii() and c.isprintable())
    stopped = {n: done for n, _, done in complete(model, tokenizer, "x", 40, Sampling(), range(3), [readable])}
    for number, done in stopped.items():
        assert done.text == free[number].text.partition(readable)[0]
        assert done.finish_reason == ("stop" if readable in free[number].text else "length")


def test_pieces_are_whole_characters_and_make_the_text(engine):
    model, tokenizer = engine(small_model()), ByteTokenizer()
    pieces = [(piece, done) for _, piece, done in complete(model, tokenizer, "é", 60, Sampling(), [1])]
    assert "".join(piece for piece, _ in pieces) == pieces[-1][1].text
    assert pieces[-1][1].text == tokenizer.decode(pieces[-1][1].tokens)


def test_an_empty_prompt_starts_from_a_newline_or_from_id_0(engine):
    model, letters = engine(small_model(vocab_size=3)), CharTokenizer()
    letters.fit(lambda: ["abc"])
    assert len(complete_text(model, letters, "", 5, Sampling(), seed=0)) == 5
    with_newline = CharTokenizer()
    with_newline.fit(lambda: ["ab\n"])
    texts = [complete_text(model, with_newline, prompt, 9, Sampling(), seed=1) for prompt in ("", "\n")]
    assert texts[0] == texts[1]


@pytest.mark.slow
def test_time_and_memory_stay_flat_over_many_tokens(engine):
    """The last token of many windows costs what the first cost; were the past kept, the last would take far more."""
    import resource
    import time

    model = small_model(window=64)
    sampling = Sampling(repetition_window=512, top_k=50)
    marks, start = [], time.process_time()  # of this process alone: others on the machine do not count
    for step, _ in enumerate(generate(engine(model), np.array([[1]]), sized(4000, 20_000), sampling, [0])):
        if step % 500 == 499:
            now = time.process_time()
            marks.append((now - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss))
            start = now
    times = [seconds for seconds, _ in marks]
    assert min(times[-4:]) <= 3 * min(times[1:5])  # a busy machine moves it by half
    assert marks[-1][1] - marks[2][1] <= 2048  # KiB


@pytest.mark.slow
@torch.inference_mode()
@pytest.mark.parametrize("rows", [2, 3, 4])
def test_weights_laid_out_for_a_batch_draw_what_a_row_alone_draws(rows: int) -> None:
    """Matrices so large that one row, two rows and more take kernels of their own; past three windows."""
    torch.manual_seed(0)
    model = Transformer(ModelConfig(512, 256, 2, 4, attention_window=8, initializer_range=0.1)).eval()
    assert prepare_linear(model.head.weight, None, rows) is not None
    prompt, network = torch.randint(512, (1, 5)), TorchNetwork(model)
    together = generated(network, prompt.expand(rows, -1), 30, Sampling(), list(range(rows)))
    for seed in range(rows):
        assert together[seed : seed + 1].equal(generated(network, prompt, 30, Sampling(), [seed]))
