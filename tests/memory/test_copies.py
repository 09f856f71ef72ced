"""Copies in a text against sets of all stretches, whatever the texts are and however they come in chunks."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from references import copies_by_sets
from running import sized

from yinggem.common.errors import UserError
from yinggem.memory.copies import Copy, find_copies
from yinggem.memory.stretches import Length, blocks, decoded, stretch_hashes
from yinggem.memory.text_stats import text_stats
from yinggem.text.tokenizer import ByteTokenizer

ALPHABETS = ["ab ", "a b\n", "abc \u2003é", "a\r\n ", "€ 漢字", "a "]
LINES = "I am the very model of a modern major general, I've information vegetable, animal and mineral.\n"


def find(text: str, training: list[str], least: Length, after: int = 0) -> tuple[object, ...]:
    found = find_copies(text, training, least, after)
    return [(copy.start, copy.end, copy.length) for copy in found.stretches], found.longest, found.share


@st.composite
def texts(draw: st.DrawFn) -> tuple[str, list[str]]:
    """A text and a training text in chunks; part of one is often part of the other."""
    alphabet = draw(st.sampled_from(ALPHABETS))
    chunks = draw(st.lists(st.text(alphabet, max_size=30), max_size=5))
    start, length = draw(st.integers(0, 100)), draw(st.integers(0, 40))
    shared = "".join(chunks)[start : start + length]
    return draw(st.text(alphabet, max_size=20)) + shared + draw(st.text(alphabet, max_size=20)), chunks


@pytest.mark.slow
@given(texts(), st.integers(1, 6), st.booleans(), st.integers(0, 40))
@settings(max_examples=sized(300, 5000), deadline=None)
def test_what_is_found_is_what_sets_of_stretches_have(both, least, characters, after):
    text, chunks = both
    expected = copies_by_sets(text, "".join(chunks), least, characters, after)
    assert find(text, chunks, Length(least, characters), after) == expected


@given(st.lists(st.text("ab \n\u2003", max_size=9)))
def test_words_are_those_of_the_whole_text(chunks):
    found = [word for block in blocks(chunks, Length(3)) for word in block]
    assert found == "".join(chunks).split()


def test_line_ends_and_spaces_do_not_hide_a_copy():
    copied = "I  am the\r\nvery model of\ta modern major\u2003general,"
    found = find_copies(f"He said: {copied} ha", [LINES])
    assert found.stretches == [Copy(9, 9 + len(copied), 10)] and found.longest == 10
    assert find_copies(LINES.replace("I", "We"), [LINES]).stretches[0].length == 9


@pytest.mark.parametrize("text", ["", " \n", "a", "a b c"])
@pytest.mark.parametrize("training", ["", "\n", "z", LINES])
def test_short_and_empty_texts_have_no_copies(text, training):
    found = find_copies(text, [training])
    assert (found.stretches, found.share) == ([], 0.0) and found.longest <= 1


def test_a_copy_from_a_prompt_on_is_cut_there_and_one_inside_it_is_not_the_output_s():
    words = LINES.split()
    prompt, output = " ".join(words[:9]), " " + " ".join(words[9:11]) + " patter song"
    found = find_copies(prompt + output, [LINES], after=len(prompt)).behind(len(prompt))
    assert found.stretches == [Copy(0, len(" general, I've"), 11)]
    assert find_copies(prompt + " la", [LINES], after=len(prompt)).stretches == []


def test_overlapping_copies_are_marked_as_one():
    training = ["a b c d e", "\n1 2\n", "d e f g h"]
    found = find_copies("a b c d e f g h", training, Length(4))
    assert [copy.length for copy in found.stretches] == [5, 5] and found.spans() == [(0, 15)]


@pytest.mark.parametrize("repeated", ["a ", "la la lo "])
def test_repetitions_cost_no_more_than_other_text(repeated):
    """Ten thousand equal words in both texts are a hundred million pairs of places."""
    found = find_copies(repeated * 10_000, [repeated * 10_000] * 3)
    assert len(found.stretches) == 1 and found.share == 1


@pytest.mark.slow
def test_memory_does_not_grow_with_the_training_text():
    def peak(chunks: int) -> int:
        tracemalloc.start()
        find_copies(LINES * 3, (f"{number} {LINES}" * 1000 for number in range(chunks)))
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    peak(1)  # what is loaded at the first call
    assert peak(30) < 1.2 * peak(3)


def test_stretches_that_are_equal_have_equal_hashes():
    hashes = np.random.default_rng(0).integers(0, 1 << 63, 40).astype(np.uint64)
    for count in range(1, 42):
        twice = stretch_hashes(np.concatenate([hashes, hashes]), count)
        alone = stretch_hashes(hashes, count)
        assert len(alone) == max(0, 41 - count) and (twice[: len(alone)] == alone).all()
        assert len(np.unique(alone)) == len(alone)


def test_ids_decode_to_the_same_text_in_pieces(monkeypatch):
    monkeypatch.setattr("yinggem.memory.stretches.BLOCK_IDS", 3)
    passed: list[int] = []
    tokenizer = ByteTokenizer()
    ids = tokenizer.encode_array("naïve 漢字€ text")[:-6]
    assert "".join(decoded(ids, tokenizer, passed.append)) == tokenizer.decode(ids.tolist())
    assert sum(passed) == len(ids)


def test_figures_of_a_text_are_those_of_their_definitions():
    training = ["To be, or not to ", "be: that is the ques", "tion."]
    stats = text_stats("to be to be to be to be\nQUESTION, quest", training)
    assert stats.unknown_words == 1 / 10
    assert stats.repeated_4grams == pytest.approx(3 / 7)  # to be to be: three times, be to be to: twice
    assert stats.longest_copy == 1 and "1 word" in str(stats)
    assert text_stats("or not", training, prompt="be, ").longest_copy == 3
    assert text_stats("", training).to_dict() == {"unknown_words": 0, "repeated_4grams": 0, "longest_copy": 0}


@pytest.mark.parametrize(
    "value", ["", "c", "0", "0c", "-1", "1.5", "x", "40 c", "4cc", "1001", "9" * 30, "²", 0, True, 2.0]
)
def test_a_limit_that_is_none_is_one_sentence(value):
    with pytest.raises(UserError, match="max_copy"):
        Length.of(value)


def test_limits_are_words_or_characters():
    assert Length.of(8) == Length.of("8") == Length(8) and Length.of("40c") == Length(40, characters=True)
    assert [str(Length.of(value)) for value in (1, 2, "1c", "2c")] == [
        "1 word",
        "2 words",
        "1 character",
        "2 characters",
    ]
