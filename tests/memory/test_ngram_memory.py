"""A memory: packed as small as xz of the text, refused where it is damaged, and one probability in all its answers."""

import lzma

import numpy as np
import pytest

from yinggem.common.errors import UserError
from yinggem.memory.ngram_memory import NgramMemory, compressed, decompressed
from yinggem.text.assets import SHAKESPEARE, read_asset


@pytest.fixture
def memory(tmp_path) -> NgramMemory:
    ids = np.frombuffer(read_asset(SHAKESPEARE)[:40_000], np.uint8)
    return NgramMemory(ids, 256, cache_dir=tmp_path)


def network(rows: np.ndarray) -> np.ndarray:
    """Nats of a network that knows nothing."""
    return np.full((len(rows), rows.shape[1] - 1), np.log(256.0))


def rows_of(start: int, count: int, length: int = 200) -> np.ndarray:
    text = np.frombuffer(read_asset(SHAKESPEARE)[start : start + count * length + 1], np.uint8)
    return np.stack([text[k * length : (k + 1) * length + 1] for k in range(count)])


@pytest.mark.slow
def test_counting_beats_ignorance_and_a_fit_beats_fixed_weights(memory):
    fitted = memory.fitted(rows_of(40_000, 40), network(rows_of(40_000, 40)))
    rows = rows_of(60_000, 20)
    before, after = memory.score(rows, network(rows)), fitted.score(rows, network(rows))
    assert before[0].mean() < 0.6 * np.log(256) and after[1].mean() < before[1].mean()


@pytest.mark.slow
@pytest.mark.parametrize("fit", [False, True])
def test_while_generating_probabilities_sum_to_one_and_a_share_of_0_is_the_network(memory, fit):
    if fit:
        memory = memory.fitted(rows_of(40_000, 40), network(rows_of(40_000, 40)))
    draw = np.random.default_rng(0)
    alone = draw.dirichlet(np.ones(256))
    typed = np.frombuffer(b"To be, or not to be: to b", np.uint8)
    for context, counted in ((typed, typed), (typed, typed[:0]), (typed[:1], typed[:1])):
        mixed = memory.distribution(alone, context, counted)
        assert mixed.sum() == pytest.approx(1, abs=1e-6) and mixed.min() > 0
        assert memory.distribution(alone, context, counted, 0.0) == pytest.approx(alone)
        half = memory.distribution(alone, context, counted, 0.5)
        assert half == pytest.approx((alone + mixed) / 2)
        double = memory.distribution(alone, context, counted, 2.0)
        assert double.sum() == pytest.approx(1, abs=1e-6) and double.min() >= 0
        assert (double == pytest.approx(2 * mixed - alone)) or (2 * mixed - alone).min() < 0


def test_of_a_text_that_is_too_long_the_end_is_counted_and_all_is_held(memory, tmp_path, monkeypatch):
    monkeypatch.setattr("yinggem.memory.ngram_memory.COUNTED_TOKENS", 5000)
    part = NgramMemory(memory.ids[-5000:], 256, cache_dir=tmp_path)
    rows = rows_of(60_000, 2)
    assert np.array_equal(memory.score(rows, network(rows)), part.score(rows, network(rows)))
    assert (
        len(memory.ids) == 40_000 == NgramMemory.from_dict(memory.to_dict(), memory.compressed_ids).to_dict()["tokens"]
    )


def test_a_run_and_its_checkpoint_find_the_same_index(memory, tmp_path):
    for ids in (memory.ids, memory.ids.astype(np.uint16)):
        assert NgramMemory(ids, 256, cache_dir=tmp_path).counts.index.nbytes < 8 * len(ids) + 8 * 256
    assert len(list((tmp_path / "memory").glob("*.ngrams"))) == 1


def test_nothing_later_changes_a_score(memory):
    rows = rows_of(50_000, 3)
    before = memory.score(rows, network(rows))
    rows = rows.copy()
    rows[1, 150:] = 0
    after = memory.score(rows, network(rows))
    for one, other in zip(before, after, strict=True):
        assert np.array_equal(one[:, :149], other[:, :149])


@pytest.mark.parametrize("vocab_size", [200, 256, 2048, 50257, 100_000])
def test_ids_are_given_back(vocab_size):
    ids = np.random.default_rng(0).integers(vocab_size, size=5000).astype(np.uint32)
    assert np.array_equal(decompressed(compressed(ids, vocab_size), 5000, vocab_size), ids)


def test_a_memory_is_no_larger_than_xz_of_its_text():
    text = read_asset(SHAKESPEARE)[:300_000]
    assert len(compressed(np.frombuffer(text, np.uint8), 256)) <= len(lzma.compress(text))


@pytest.mark.slow
def test_plain_data_gives_back_the_memory(memory):
    fitted = memory.fitted(rows_of(40_000, 40), network(rows_of(40_000, 40)))
    found = NgramMemory.from_dict(fitted.to_dict(), compressed(fitted.ids, 256))
    rows = rows_of(60_000, 2)
    assert np.array_equal(found.score(rows, network(rows))[1], fitted.score(rows, network(rows))[1])


def test_what_is_damaged_or_hostile_is_refused(memory):
    packed, content = compressed(memory.ids, 256), memory.to_dict()
    bomb = lzma.compress(bytes(1 << 24))
    for block in (packed[:-30], b"", b"\0" * 50, bomb):
        with pytest.raises(UserError):
            NgramMemory.from_dict(content, block)
    damages = [{"tokens": wrong} for wrong in (39_999, 40_001, 0, True, 1 << 40, "x")]
    damages += [{"vocab_size": wrong} for wrong in (100, 0, "x")]
    for damage in (*damages, {"scoring": {}}, {"generating": None}):
        with pytest.raises(UserError):
            NgramMemory.from_dict(content | damage, packed)
    with pytest.raises(UserError):
        NgramMemory.from_dict(None, packed)
