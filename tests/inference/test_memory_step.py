"""The memory while generating: a distribution of its own, the same alone and in a batch, blind to the output."""

import numpy as np
import pytest

from yinggem.common.errors import UserError
from yinggem.inference.completion import complete
from yinggem.inference.memory_step import MemoryStep, memory_steps, typed_ids
from yinggem.inference.networks.torch_network import TorchNetwork
from yinggem.inference.sampling import Sampling
from yinggem.memory.ngram_memory import NgramMemory
from yinggem.model.transformer import Transformer
from yinggem.text.tokenizer import BPETokenizer, ByteTokenizer

TEXT = "Shall I compare thee to a summer's day?\nThou art more lovely and more temperate.\n" * 30
PLAIN = Sampling(temperature=1.0, top_p=1.0, repetition_penalty=1.0)


@pytest.fixture
def memory(tmp_path) -> NgramMemory:
    return NgramMemory(np.frombuffer(TEXT.encode(), np.uint8), 256, cache_dir=tmp_path)


def sampled(model: Transformer, memory: NgramMemory | None, share: float | None, seeds: range) -> list[list[int]]:
    steps = memory_steps(memory, ByteTokenizer(), "Thou", len(seeds), share)
    network = TorchNetwork(model)
    last = {row: sample for row, _, sample in complete(network, ByteTokenizer(), "Thou", 40, PLAIN, seeds, (), steps)}
    return [last[row].tokens for row in range(len(seeds))]


def test_a_sample_does_not_depend_on_its_batch_and_a_share_of_0_is_the_network(model, memory):
    together = sampled(model, memory, None, range(4))
    assert together == [sampled(model, memory, 1.0, range(seed, seed + 1))[0] for seed in range(4)]
    alone = sampled(model, None, None, range(4))
    assert sampled(model, memory, 0.0, range(4)) == alone != together


def test_an_untrained_network_writes_letters_of_the_text_with_a_memory(model, memory):
    known = set(TEXT.encode())

    def share_of_known(which: NgramMemory | None) -> float:
        return float(np.mean([token in known for ids in sampled(model, which, None, range(8)) for token in ids]))

    assert share_of_known(memory) > share_of_known(None) + 0.1


def test_the_logits_are_the_logs_of_the_mixture_after_what_was_added(memory):
    typed = np.frombuffer(b"Thou art", np.uint8).astype(np.int64)
    step, logits = MemoryStep(memory, list(typed), typed, 0.7), np.random.default_rng(0).normal(size=256)
    for token in b" more":
        step.add(token)
    network = np.exp(logits) / np.exp(logits).sum()
    expected = memory.distribution(network, np.frombuffer(b"Thou art more", np.uint8), typed, 0.7)
    assert np.exp(step.apply(logits.astype(np.float32))) == pytest.approx(expected, rel=1e-3, abs=1e-7)


def test_what_was_generated_is_not_counted_and_stretches_of_the_prompt_can_be_marked(memory):
    tokenizer = ByteTokenizer()
    prompt = "zq zq zq é zq"
    ids = tokenizer.encode(prompt)
    assert typed_ids(tokenizer, prompt, ids).tolist() == ids
    marked = typed_ids(tokenizer, prompt, ids, [(3, 5), (9, 10)]).tolist()
    assert [k for k, token in enumerate(marked) if token == 256] == [3, 4, 9, 10]  # é is two bytes
    network, context = np.full(256, 1 / 256), np.frombuffer(b"zq z", np.uint8)
    whole = memory.distribution(network, context, np.array(ids))
    none = memory.distribution(network, context, typed_ids(tokenizer, prompt, ids, [(0, len(prompt))]))
    assert whole[ord("q")] > 2 * none[ord("q")]
    assert none == pytest.approx(memory.distribution(network, context, np.array([], np.int64)))


def test_half_a_token_that_was_generated_is_not_counted():
    tokenizer = BPETokenizer(300)
    tokenizer.fit(lambda: [TEXT])
    ids = tokenizer.encode("summer's day")
    lengths = [len(tokenizer.decode([token])) for token in ids]
    assert max(lengths) > 2
    place = lengths.index(max(lengths))
    start = sum(lengths[:place])
    marked = typed_ids(tokenizer, "summer's day", ids, [(start + 1, start + 2)])
    assert [k for k, token in enumerate(marked.tolist()) if token == 300] == [place]


@pytest.mark.parametrize("wrong", [(-1, 2), (3, 2), (0, 5), (0.5, 2)])
def test_a_stretch_that_is_not_of_the_prompt_is_refused(wrong):
    with pytest.raises(UserError, match="generated="):
        typed_ids(ByteTokenizer(), "Thou", list(b"Thou"), [wrong])


def test_a_share_without_a_memory_or_out_of_range_is_refused(memory):
    for share in (-0.1, 2.5, float("nan")):
        with pytest.raises(UserError, match="memory"):
            memory_steps(memory, ByteTokenizer(), "a", 1, share)
    with pytest.raises(UserError, match="has no memory"):
        memory_steps(None, ByteTokenizer(), "a", 1, 0.5)
    assert memory_steps(None, ByteTokenizer(), "a", 2, 0.0) == memory_steps(None, ByteTokenizer(), "a", 2) == [[], []]
