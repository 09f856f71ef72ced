"""The memory in C: the distribution of NgramMemory, whatever the text, and no address outside a damaged index."""

import tempfile
from copy import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from yinggem.engine.memory import EngineMemory
from yinggem.memory.mixture import Mixture
from yinggem.memory.ngram_memory import NgramMemory, mixed
from yinggem.memory.text_counts import TextCounts


def memory_of(draw: np.random.Generator, vocab: int, size: int, folder: Path) -> NgramMemory:
    """Counts of a text in which much comes again, and random mixtures."""
    phrases = [draw.integers(0, vocab, draw.integers(1, 12)) for _ in range(8)]
    text = np.concatenate([phrases[draw.integers(8)] for _ in range(size)])[:size]
    features, sources = mixed(vocab)
    shapes = {
        "hidden": (features, 16), "hidden_bias": (16,), "out": (16, sources), "out_bias": (sources,),
        "direct": (features, sources),
    }  # fmt: skip
    mixture = Mixture({name: draw.normal(size=shape) for name, shape in shapes.items()})
    return NgramMemory(text, vocab, generating=mixture, cache_dir=folder)


@settings(deadline=None, max_examples=20)
@example(seed=0, vocab=70_000, size=300, typed=40, share=1.0)
@given(
    seed=st.integers(0, 2**32), vocab=st.sampled_from([1, 2, 7, 256, 258, 259, 300, 2048]),
    size=st.integers(1, 400), typed=st.integers(0, 60), share=st.sampled_from([0.3, 1.0, 2.0]),
)  # fmt: skip
def test_it_is_the_distribution_of_numpy(seed, vocab, size, typed, share):
    draw = np.random.default_rng(seed)
    with tempfile.TemporaryDirectory() as folder:
        memory = memory_of(draw, vocab, size, Path(folder))
        ids = [*memory.ids[: draw.integers(1, 30)].tolist(), *draw.integers(0, vocab, 3).tolist()]
        counted = np.where(draw.random(typed) < 0.1, vocab, np.resize(memory.ids[draw.integers(size) :], typed))
        ours = EngineMemory(memory, ids, counted.astype(np.int64), share)
        for position in range(6):
            logits = draw.normal(size=vocab).astype(np.float32) * 3
            network = np.exp(logits - logits.max(), dtype=np.float64)
            network /= network.sum()
            expected = memory.distribution(network, np.array(ids[-memory.longest :]), counted, share, len(ids))
            np.testing.assert_allclose(ours.mix(logits), expected, rtol=1e-9, atol=0)
            ids.append(int(memory.ids[position % size]))
            ours.add(ids[-1:])
        ours.close()


def test_a_damaged_index_makes_other_numbers_and_nothing_worse():
    draw = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        memory = memory_of(draw, 40, 3000, Path(folder))
        whole = memory.counts.index
        for _ in range(20):
            marks = tuple(copy(one) for one in whole.marks)
            for one in marks:
                one.words = draw.integers(0, 2**64, one.words.shape, np.uint64)
            damaged = replace(
                whole, marks=marks, ids=draw.integers(0, 256, whole.ids.shape).astype(whole.ids.dtype),
                suffixes=draw.integers(0, 2**32, whole.suffixes.shape).astype(np.uint32),
                firsts=draw.integers(0, draw.choice([4000, 2**32]), whole.firsts.shape).astype(np.uint32),
            )  # fmt: skip
            memory.__dict__["counts"] = TextCounts(damaged)
            ours = EngineMemory(memory, range(40), np.arange(-5, 60), 1.0)
            for token in range(40):
                assert ours.mix(np.zeros(40, np.float32)).shape == (40,)
                ours.add([token])


def test_what_is_not_an_index_is_refused_before_c_sees_it(tmp_path):
    memory = memory_of(np.random.default_rng(0), 40, 300, tmp_path)
    whole, marks = memory.counts.index, copy(memory.counts.index.marks[0])
    marks.words = marks.words[:0]
    for change in ({"suffixes": whole.suffixes[1:]}, {"alone": whole.alone.astype(np.uint16)}, {"ids": whole.ids[1:]},
                   {"marks": (marks, *whole.marks[1:])}, {"marks": whole.marks[1:]}):  # fmt: skip
        memory.__dict__["counts"] = TextCounts(replace(whole, **change))
        with pytest.raises((TypeError, ValueError)):
            EngineMemory(memory, [1], np.array([], np.int64), 1.0)
    memory.__dict__["counts"] = TextCounts(whole)
    ours = EngineMemory(memory, [1], np.array([], np.int64), 1.0)
    with pytest.raises(ValueError, match="40 numbers"):
        ours.mix(np.zeros(39, np.float32))
    for wrong in (-1, 40):
        with pytest.raises(ValueError, match="from 0 to 39"):
            ours.add([wrong])
    ours.close()
    with pytest.raises(RuntimeError, match="closed"):
        ours.mix(np.zeros(40, np.float32))
