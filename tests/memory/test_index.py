"""The n-gram index: sorted places, ranges and counts as a naive search finds them, in few bytes."""

import numpy as np
import pytest

from yinggem.memory.index import bits_of, build_index, longest_ngram, sorted_places


def test_the_marks_of_documents_shorten_no_ngram_of_bytes():
    assert longest_ngram(256) == longest_ngram(257) == longest_ngram(258) == 7 > longest_ngram(259) > 1


def ids_of(vocab_size: int, count: int, seed: int = 0) -> np.ndarray:
    """A text in which n-grams repeat."""
    draw = np.random.default_rng(seed)
    kind = np.uint8 if vocab_size <= 256 else np.uint16 if vocab_size <= 1 << 16 else np.uint32
    return (draw.zipf(1.5, count) % vocab_size).astype(kind)


SIZES = [(2, 50), (65, 600), (256, 400), (2048, 500), (50257, 300), (100_000, 300), (3, 1)]


@pytest.mark.parametrize(("vocab_size", "count"), SIZES)
@pytest.mark.parametrize("depth", [1, 4, 9])
def test_places_are_sorted_by_what_begins_there_then_as_they_come(vocab_size, count, depth):
    ids = ids_of(vocab_size, count)
    ring = np.resize(ids, count + 80).tolist()
    found = sorted_places(ids, depth, bits_of(vocab_size)).tolist()
    assert sorted(found) == list(range(count))
    # More ids than were asked for may be sorted.
    assert any(found == sorted(found, key=lambda p: (ring[p : p + to], p)) for to in range(depth, depth + 64))


@pytest.mark.parametrize(("vocab_size", "count"), SIZES)
def test_every_length_has_the_ranges_and_counts_of_a_naive_search(vocab_size, count):
    ids = ids_of(vocab_size, count)
    index, longest = build_index(ids, vocab_size), longest_ngram(vocab_size)
    assert index.longest == longest and longest * bits_of(vocab_size) <= 64
    ring = np.resize(ids, count + longest).tolist()
    for length in range(1, longest + 1):
        grams = [tuple(ring[i : i + length]) for i in range(count)]
        longer = {tuple(ring[i : i + length + 1]) for i in range(count)}
        naive: dict[tuple, int] = {}
        for gram in grams if length == longest else [gram[1:] for gram in longer]:
            naive[gram] = naive.get(gram, 0) + 1
        if length == 1:
            assert {(v,): int(c) for v, c in enumerate(index.alone) if c} == naive
            continue
        for context in {gram[:-1] for gram in [*naive][:100]}:
            low, high = index.find(context)
            there = sorted(p for p in range(count) if tuple(ring[p : p + length - 1]) == context)
            assert sorted(index.suffixes[low:high].tolist()) == there
            after = {gram[-1]: c for gram, c in naive.items() if gram[:-1] == context}
            found = index.continuing(length, low, high)
            assert dict(zip(*(part.tolist() for part in found), strict=True)) == after
            totals, kinds = index.continued(length, np.array([low]), np.array([high]))
            counts = list(after.values())
            assert totals.tolist() == [sum(counts)]
            assert kinds.tolist() == [[counts.count(1), counts.count(2), sum(c > 2 for c in counts)]]


def test_ranges_of_many_rows_are_those_of_each_ngram_and_empty_for_what_is_not_there():
    ids = ids_of(65, 2000)
    index, rows = build_index(ids, 65), ids_of(65, 60, 1).reshape(4, 15).astype(np.int64)
    for length, (low, high) in enumerate(index.ranges(rows), 1):
        assert low.shape == high.shape == (4, 16 - length)
        for row, begin in np.ndindex(low.shape):
            first, end = index.find(rows[row, begin : begin + length].tolist())
            assert (end - first, high[row, begin] - low[row, begin]) == (end - first,) * 2
            assert first == end or (low[row, begin], high[row, begin]) == (first, end)


@pytest.mark.parametrize("vocab_size", [65, 2048, 50257])
def test_a_token_takes_less_than_8_bytes_with_its_text_and_an_entry_of_the_vocabulary_8(vocab_size):
    ids = ids_of(vocab_size, 50_000)
    assert build_index(ids, vocab_size).nbytes < 8 * (len(ids) + vocab_size)
