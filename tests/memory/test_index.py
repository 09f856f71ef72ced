"""The n-gram index: the counts of a naive count, and a file that is what was written or nothing."""

import random

import numpy as np
import pytest

from yinggem.memory.index import bits_of, build_index, longest_ngram, open_index, packed, write_index


def test_the_marks_of_documents_shorten_no_ngram_of_bytes():
    assert longest_ngram(256) == longest_ngram(257) == longest_ngram(258) == 7 > longest_ngram(259) > 1


def ids_of(vocab_size: int, count: int, seed: int = 0) -> np.ndarray:
    """A text in which n-grams repeat."""
    draw = np.random.default_rng(seed)
    return (draw.zipf(1.5, count) % vocab_size).astype(np.uint16)


@pytest.mark.parametrize(("vocab_size", "count"), [(2, 50), (65, 3000), (256, 900), (2048, 2000), (50257, 700), (3, 1)])
def test_every_level_counts_what_a_naive_count_finds(vocab_size, count):
    ids = ids_of(vocab_size, count)
    index, longest = build_index(ids, vocab_size), longest_ngram(vocab_size)
    assert len(index.levels) == longest and longest * bits_of(vocab_size) <= 64
    ring = np.resize(ids, count + longest).tolist()
    for length, level in enumerate(index.levels, 1):
        grams = [tuple(ring[i : i + length]) for i in range(count)]
        longer = {tuple(ring[i : i + length + 1]) for i in range(count)}
        naive: dict[tuple, int] = {}
        for gram in grams if length == longest else [gram[1:] for gram in longer]:
            naive[gram] = naive.get(gram, 0) + 1
        keys = [int(packed(np.array(gram), length, index.bits)[0]) for gram in naive]
        assert dict(zip(level.grams.tolist(), level.counts.tolist(), strict=True)) == dict(
            zip(keys, naive.values(), strict=True)
        )
        assert (np.diff(level.grams.astype(object)) > 0).all() and (np.diff(level.contexts.astype(object)) > 0).all()
        assert level.starts[-1] == len(level.grams)
        for row, context in enumerate(level.contexts.tolist()):
            place = slice(level.starts[row], level.starts[row + 1])
            assert {gram >> index.bits for gram in level.grams[place].tolist()} == {context}
            assert level.totals[row] == level.counts[place].sum()


def test_a_file_gives_back_the_index(tmp_path):
    index = build_index(ids_of(65, 4000), 65)
    with open(tmp_path / "a", "wb") as file:
        write_index(file, index)
    found = open_index(tmp_path / "a")
    assert found is not None and found.vocab_size == 65 and found.nbytes == index.nbytes
    for mine, yours in zip(index.levels, found.levels, strict=True):
        for name in mine.__dataclass_fields__:
            assert np.array_equal(getattr(mine, name), getattr(yours, name))
            assert getattr(mine, name).dtype == getattr(yours, name).dtype


def test_a_damaged_file_is_not_opened(tmp_path):
    with open(tmp_path / "a", "wb") as file:
        write_index(file, build_index(ids_of(65, 200), 65))
    content, draw = (tmp_path / "a").read_bytes(), random.Random(0)
    assert open_index(tmp_path / "b") is None
    for size in (0, 5, 17, 40, 300, len(content) - 40):
        (tmp_path / "b").write_bytes(content[:size])
        assert open_index(tmp_path / "b") is None, size
    opened = 0
    for _ in range(200):
        damaged = bytearray(content)
        damaged[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
        (tmp_path / "b").write_bytes(damaged)
        opened += open_index(tmp_path / "b") is not None
    assert opened < 60  # bits of the padding between arrays mean nothing; all others are noticed
