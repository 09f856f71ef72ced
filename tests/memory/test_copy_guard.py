"""What may not come next, against trying every token in full."""

import random
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from references import ends_in_copy, forbidden_tokens, stretches_of
from running import sized

from yinggem.memory.copy_guard import CopyGuard, CopyLimit
from yinggem.memory.copy_index import CopyIndex
from yinggem.memory.stretches import Length
from yinggem.text.tokenizer import BPETokenizer, ByteTokenizer, CharTokenizer

ALPHABETS = ["ab ", "ab \n", "aé\u2003 ", "aé\xa0€", "ab\ufffd ", "é€", "a "]  # some of the spaces are several bytes
TEXT = (
    "To be, or not to be: that is the question.\r\nTo be or not to be that is naïve — 'tis \u2003 the question.\n" * 3
)


def chunks_of(text: str, draw: random.Random) -> list[str]:
    cuts = sorted(draw.randrange(len(text) + 1) for _ in range(3))
    return [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]


def random_tokens(alphabet: str, text: str, draw: random.Random) -> list[bytes]:
    """Every byte, and pieces that are cut anywhere: halves of characters, several words, long ones."""
    data, tokens = (text + alphabet * 5).encode(), [bytes([byte]) for byte in sorted(set(alphabet.encode()))]
    for _ in range(draw.randrange(30)):
        start = draw.randrange(len(data))
        tokens.append(data[start : start + draw.randrange(1, draw.choice([4, 8, 15]))])
    return list(dict.fromkeys(tokens))


@pytest.mark.slow
@given(st.sampled_from(ALPHABETS), st.booleans(), st.integers(1, 8), st.integers(0, 1 << 40))
@settings(max_examples=sized(120, 3000), deadline=None)
def test_forbidden_is_exactly_what_would_complete_a_copy(alphabet, characters, limit, seed):
    draw = random.Random(seed)
    limit = limit if characters else min(limit, 3)
    training = "".join(draw.choices(alphabet, k=draw.randrange(80)))
    tokens = random_tokens(alphabet, training, draw)
    start = draw.randrange(len(training) + 1)
    prompt = draw.choice([training[start : start + 15], "".join(draw.choices(alphabet, k=6)), ""])
    guard = CopyGuard(CopyLimit(chunks_of(training, draw), Length(limit, characters), tokens), ["other", prompt])
    output = b""
    for _ in range(20):
        expected = forbidden_tokens(tokens, prompt, output, training, limit, characters)
        assert set(guard.forbidden(1).tolist()) == expected
        allowed = [number for number in range(len(tokens)) if number not in expected]
        if not allowed:
            break
        number = draw.choice(allowed)
        output += tokens[number]
        guard.add(0, draw.randrange(len(tokens)))
        guard.add(1, number)


def tokenizer_of(name: str) -> ByteTokenizer | CharTokenizer | BPETokenizer:
    made: dict[str, Callable[[], Any]]
    made = {"byte": ByteTokenizer, "char": CharTokenizer, "bpe": lambda: BPETokenizer(280)}
    tokenizer: ByteTokenizer | CharTokenizer | BPETokenizer = made[name]()
    tokenizer.fit(lambda: [TEXT])
    return tokenizer


@pytest.mark.parametrize("limit", ["1", "3", "12", "1c", "9c", "30c"])
@pytest.mark.parametrize("kind", ["byte", "char", "bpe"])
def test_a_text_that_follows_the_training_text_turns_away_in_time(kind, limit):
    """The tokens of the training text wherever they may come: as near to a copy as a text can be."""
    length, tokenizer, draw = Length.of(limit), tokenizer_of(kind), random.Random(0)
    guard = CopyGuard(CopyLimit([TEXT], length, tokenizer.tokens), ["To be, or not"])
    wanted, ids, turned = tokenizer.encode(TEXT.removeprefix("To be, or not")), [], 0
    for token in wanted:
        forbidden = set(guard.forbidden(0).tolist())
        allowed = [number for number in range(tokenizer.vocab_size) if number not in forbidden]
        if not allowed:
            break
        turned += token in forbidden
        ids.append(draw.choice(allowed) if token in forbidden else token)
        guard.add(0, ids[-1])
    text, known = "To be, or not" + tokenizer.decode(ids), stretches_of(TEXT, length.count + 1, length.characters)
    ends = range(len("To be, or not") + 1, len(text) + 1)
    assert not any(ends_in_copy(text[:end], known, length.count + 1, length.characters) for end in ends)
    assert turned or not allowed


def test_the_last_word_counts_before_it_is_finished():
    """A token that goes on behind the copy is as bad as one that ends with it: the text may be cut inside a token."""
    tokens = [b" be", b" bet", b"e", b"er", b"b", b" b", b" "]
    guard = CopyGuard(CopyLimit(["not to be or"], Length(2), tokens), ["not to", "not to b", "not to be", "to be"])
    found = [[tokens[number] for number in guard.forbidden(row)] for row in range(4)]
    assert found == [[b" be", b" bet"], [b"e", b"er"], [], []]


def test_a_prompt_may_be_a_copy_and_what_follows_it_may_not_go_on():
    tokens = [b" that", b" is", b" this", b"s"]
    prompt = "To be, or not to be:"
    guard = CopyGuard(CopyLimit([TEXT], Length(3), tokens), [prompt])
    assert guard.forbidden(0).tolist() == [0]
    guard.add(0, 2)
    assert guard.forbidden(0).tolist() == []


@pytest.mark.parametrize("length", [Length(1), Length(3), Length(1, True), Length(2, True), Length(17, True)])
def test_every_place_of_a_stretch_is_found(length):
    draw = random.Random(1)
    text = " ".join("".join(draw.choices("ab", k=draw.randrange(1, 3))) for _ in range(300))
    index = CopyIndex(chunks_of(text, draw), length)
    units = length.split(index.text)
    for start in range(0, len(units) - length.count + 1, 7):
        stretch = length.joined(units[start : start + length.count])
        ends = [end for end in range(len(index.text) + 1) if index.text[:end].endswith(stretch)]
        if not length.characters:  # whole words, and behind the space after them
            padded = " " + index.text
            ends = [end + 1 for end in ends if padded[: end + 2].endswith(f" {stretch} ")]
        assert sorted(index.ends(stretch)) == ends
