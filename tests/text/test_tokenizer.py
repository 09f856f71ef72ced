"""Tokenizers: reversible on any text, equal to tiktoken and to GPT-2's published ids, saved as plain data."""

import io
import itertools
import re
import subprocess
import sys
import time

import numpy as np
import pytest
import tiktoken
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from running import sized

from yinggem.common.errors import UserError
from yinggem.text import bpe
from yinggem.text.tokenizer import (
    BPETokenizer,
    ByteTokenizer,
    CharTokenizer,
    GPT2Tokenizer,
    StreamDecoder,
    Tokenizer,
    from_state_dict,
)
from yinggem.text.tokens import token_cache

SAMPLE = (
    "To be, or not to be, that is the question:\nWhether 'tis nobler in the mind to suffer\n"
    "The slings and arrows of outrageous fortune,\n\n  Or to take arms against a sea of troubles\t12345 67\n"
    "naïve façade — „Grüße“ 日本語のテキスト 🙂👩‍👩‍👧 שלום עולם \u202eRTL\u202c \x00 \u2028 e\u0301\n"
) * 3
# Also what upsets tokenizers: odd whitespace, NUL, private use, astral characters, contractions, special tokens.
TEXT = st.lists(
    st.one_of(
        st.text(max_size=20),
        st.sampled_from(
            ["  ", " \n", "\r\n", "\x00", "<|endoftext|>", "'ll", "\u3000", "🙂", "\x1c", "1234", "!!!", "שלום"]
        ),
    ),
    max_size=20,
).map("".join)


def make(name: str) -> Tokenizer:
    tokenizer: Tokenizer = {
        "gpt2": GPT2Tokenizer,
        "bpe": lambda: BPETokenizer(vocab_size=400),
        "char": CharTokenizer,
        "byte": ByteTokenizer,
    }[name]()
    if not tokenizer.is_fitted:
        tokenizer.fit(lambda: [SAMPLE])
    return tokenizer


@pytest.fixture(scope="module", params=["gpt2", "bpe", "byte", "char"])
def tokenizer(request):
    return make(request.param)


@pytest.fixture(scope="module", params=["gpt2", "bpe", "byte"])
def open_tokenizer(request):
    """Those that encode any text."""
    return make(request.param)


@pytest.fixture(scope="module")
def gpt2():
    return GPT2Tokenizer()


@pytest.fixture(scope="module")
def trained():
    return make("bpe")


def test_gpt2_gives_published_ids(gpt2):
    # The examples of tiktoken's README and of OpenAI's encoder.
    assert gpt2.encode("hello world") == [31373, 995]
    assert gpt2.encode("Hello, world!") == [15496, 11, 995, 0]
    assert gpt2.vocab_size == 50257
    assert gpt2.decode([50256]) == "<|endoftext|>"


def test_special_token_in_text_is_ordinary_text(tokenizer):
    if tokenizer.name != "char":
        ids = tokenizer.encode("a<|endoftext|>b")
        assert tokenizer.decode(ids) == "a<|endoftext|>b"
        assert 50256 not in ids


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(text=TEXT)
def test_any_text_survives(open_tokenizer, text):
    ids = open_tokenizer.encode(text)
    assert open_tokenizer.decode(ids) == text
    assert open_tokenizer.decode_bytes(ids) == text.encode()
    array = open_tokenizer.encode_array(text)
    assert array.tolist() == ids
    assert array.dtype == open_tokenizer.dtype
    assert open_tokenizer.token_byte_lengths[array].sum() == len(text.encode())


def test_sample_survives(tokenizer):
    assert tokenizer.decode(tokenizer.encode(SAMPLE)) == SAMPLE
    assert tokenizer.encode("") == []
    assert tokenizer.encode_array("").dtype == tokenizer.dtype


@settings(max_examples=100, deadline=None)
@given(text=st.text(alphabet=sorted(set(SAMPLE))))
def test_char_is_one_id_per_character(text):
    tokenizer = make("char")
    ids = tokenizer.encode(text)
    assert [sorted(set(SAMPLE))[i] for i in ids] == list(text)
    assert tokenizer.decode(ids) == text


def test_char_names_unseen_characters():
    with pytest.raises(UserError, match=re.escape("'€' (U+20AC)")) as caught:
        make("char").encode("5 €")
    assert "tokenizer=bpe" in str(caught.value)
    with pytest.raises(UserError, match=r"\.\.\."):
        make("char").encode("".join(map(chr, range(0x4E00, 0x5000))))


@pytest.mark.parametrize(("text", "what"), [
    ("\ud800", "lone surrogate"), ("ok \udfff", "lone surrogate"), ("🙂\ud83d", "lone surrogate"),
    (b"ok \xff".decode(errors="surrogateescape"), "Character 3 .* not UTF-8 .0xFF."),
])  # fmt: skip
def test_what_is_no_whole_character_is_refused(tokenizer, text, what):
    for encode in (tokenizer.encode, tokenizer.encode_array):
        with pytest.raises(UserError, match=what):
            encode(text)


@pytest.mark.parametrize("ids", [[-1], [10**9], [0, 2**70]])
def test_id_outside_vocabulary_is_refused(tokenizer, ids):
    with pytest.raises(UserError, match="outside the vocabulary"):
        tokenizer.decode(ids)


def test_decode_takes_arrays_and_tensors(tokenizer):
    ids = tokenizer.encode("To be")
    assert tokenizer.decode(np.array(ids)) == tokenizer.decode(torch.tensor(ids)) == "To be"


# --- byte-pair encoding ---------------------------------------------------------------------------------------------


def naive_bpe(tokens: list[bytes], word: bytes) -> list[int]:
    """Merge the adjacent pair of lowest rank until none is left: the definition, quadratic."""
    ranks = {token: rank for rank, token in enumerate(tokens)}
    parts = [word[i : i + 1] for i in range(len(word))]
    while len(parts) > 1:
        rank, at = min((ranks.get(a + b, len(tokens)), i) for i, (a, b) in enumerate(itertools.pairwise(parts)))
        if rank == len(tokens):
            break
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    return [ranks[part] for part in parts]


def test_trained_bpe_is_bpe(trained):
    words = re.findall(r"'(?:[sdmt]|ll|ve|re)| ?[a-zA-Z]+| ?[0-9]+| ?[^\sa-zA-Z0-9]+|\s+(?!\S)|\s", SAMPLE[:180])
    assert "".join(words) == SAMPLE[:180]
    assert trained.encode(SAMPLE[:180]) == [i for word in words for i in naive_bpe(trained.tokens, word.encode())]


def test_trained_bpe_learns_what_the_tokenizers_library_learns():
    """Same ids as the library's own encoder on ordinary text, for which both are plain byte-level BPE."""
    from tokenizers import Tokenizer as Library
    from tokenizers import models, pre_tokenizers, trainers

    library = Library(models.BPE())
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    library.train_from_iterator([SAMPLE], trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet))
    assert make("bpe").encode(SAMPLE) == library.encode(SAMPLE).ids


def test_training_is_deterministic_and_exact():
    first, second = make("bpe"), make("bpe")
    assert first.tokens == second.tokens
    assert first.fingerprint == second.fingerprint
    assert len(first.tokens) == first.vocab_size == 400
    assert {bytes([b]) for b in range(256)} <= set(first.tokens)
    assert len(set(first.tokens)) == 400
    other = BPETokenizer(vocab_size=401)
    other.fit(lambda: [SAMPLE])
    assert other.fingerprint != first.fingerprint


def test_vocabulary_of_bytes_only():
    tokenizer = BPETokenizer(vocab_size=256)
    tokenizer.fit(lambda: ["a"])
    assert len(tokenizer.encode(SAMPLE)) == len(SAMPLE.encode())


def test_text_too_short_to_train_on():
    with pytest.raises(UserError, match="choose at most 25"):
        BPETokenizer(vocab_size=5000).fit(lambda: ["abc"])


def test_at_most_takes_what_there_is_and_is_found_again(tmp_path):
    """A word is one token, and an end: nothing more can be merged. With enough text it changes nothing."""
    tokenizer = BPETokenizer(5000, at_most=True)
    path = tmp_path / "a.tokenizer"
    wanted = tokenizer.settings
    tokenizer.fit(lambda: ["abc"])
    assert tokenizer.vocab_size == 258 and tokenizer.encode("abc") == [257]
    with open(path, "wb") as file:
        token_cache.write_tokenizer(file, tokenizer)
    found = token_cache.open_tokenizer(path, wanted)
    assert found is not None and found.state_dict() == tokenizer.state_dict()
    assert token_cache.open_tokenizer(path, BPETokenizer(5000).settings) is None
    assert token_cache.open_tokenizer(path, BPETokenizer(257, at_most=True).settings) is None
    exact, most = BPETokenizer(400), BPETokenizer(400, at_most=True)
    for one in (exact, most):
        one.fit(lambda: [SAMPLE])
    assert exact.state_dict() == most.state_dict() and most.is_fitted_as(exact.settings)


@pytest.mark.parametrize("size", [255, 0, -1, 2**21, 1000.0, "1000", True, None])
def test_vocab_size_out_of_range(size):
    with pytest.raises(UserError, match=r"tokenizer\.vocab_size"):
        BPETokenizer(vocab_size=size)


@pytest.mark.parametrize("kind", [BPETokenizer, CharTokenizer])
def test_unfitted_tokenizer_says_so(kind):
    with pytest.raises(UserError, match="has not been fitted"):
        kind().encode("a")


def test_training_sample_is_spread_over_the_text(monkeypatch):
    """Beyond the limit, every chunk contributes its share: the last one's words are learnt as well as the first's."""
    monkeypatch.setattr(bpe, "TRAINING_CHARACTERS", 3000)
    chunks = ["alpha " * 1000, "bravo " * 1000, "gamma " * 1000]
    assert sum(map(len, bpe._spread_sample(lambda: chunks, 3000))) == 3000
    tokens = bpe.train(lambda: chunks, 256 + 15)
    assert {b"alpha", b"bravo", b"gamma"} <= {token.strip() for token in tokens}


# --- cutting long text ----------------------------------------------------------------------------------------------


@settings(max_examples=150, deadline=None)
@given(text=TEXT, limit=st.integers(20, 60))
def test_cuts_change_no_token(gpt2, trained, text, limit):
    """Encoding the pieces one by one gives tiktoken's ids of the whole, unless a stretch is longer than the limit."""
    parts = list(bpe.pieces(text, limit))
    assert "".join(parts) == text
    assert all(len(part) <= limit for part in parts)
    if max(map(len, re.split(r"(?<=\S)(?=[ \n])", text))) < limit:
        for tokenizer in (gpt2, trained):
            ids = [i for part in parts for i in tokenizer.encoding.encode_ordinary(part)]
            assert ids == tokenizer.encoding.encode_ordinary(text)


def test_long_text_has_the_ids_of_tiktoken(gpt2, tinyshakespeare_path):
    text = tinyshakespeare_path.read_text(encoding="utf-8")
    reference = tiktoken.Encoding(
        "gpt2",
        pat_str=bpe.SPLIT_PATTERN,
        mergeable_ranks={token: i for i, token in enumerate(bpe.gpt2_tokens())},
        special_tokens={},
    ).encode_ordinary(text)
    assert gpt2.encode_array(text).tolist() == reference == gpt2.encode(text)


def check_megabytes(tokenizer, unit, count):
    """Were the time in proportion to the square of the length, it would be hours of this process alone."""
    text = unit * (count * 1_000_000 // len(unit.encode())) + "x"
    start = time.process_time()
    ids = tokenizer.encode_array(text)
    assert time.process_time() - start < 20 * count
    assert tokenizer.decode(ids) == text


@pytest.mark.parametrize("unit", ["a", " "])
def test_a_megabyte_without_a_break(gpt2, unit):
    """One enormous word, or whitespace up to a last letter, which made tiktoken panic: quick and exact."""
    check_megabytes(gpt2, unit, 1)


@pytest.mark.slow
@pytest.mark.parametrize("unit", ["a", " ", "\n", "!", "中", "ab", " \t", "🙂", "\x00", "1", "a'll"])
def test_megabytes_of_anything(open_tokenizer, unit):
    check_megabytes(open_tokenizer, unit, sized(2, 10))


def test_training_on_one_enormous_word_ends():
    text = "".join(chr(97 + (i * i * 7 + i // 3) % 26) for i in range(500_000))
    start = time.process_time()
    tokenizer = BPETokenizer(vocab_size=300)
    tokenizer.fit(lambda: [text])
    assert time.process_time() - start < 60
    assert tokenizer.decode(tokenizer.encode_array(text)) == text


# --- streaming ------------------------------------------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(text=TEXT)
def test_streamed_text_is_the_text(open_tokenizer, text):
    decoder = StreamDecoder(open_tokenizer)
    parts = [decoder.push(i) for i in open_tokenizer.encode(text)]
    assert "".join([*parts, decoder.finish()]) == text
    assert "\ufffd" not in "".join(parts) or "\ufffd" in text


def test_incomplete_character_is_replaced_at_the_end():
    tokenizer = ByteTokenizer()
    decoder = StreamDecoder(tokenizer)
    assert [decoder.push(i) for i in "é".encode()[:1]] == [""]
    assert decoder.finish() == "\ufffd" == tokenizer.decode("é".encode()[:1])


# --- saving ---------------------------------------------------------------------------------------------------------


def test_saved_tokenizer_is_the_same(tokenizer):
    file = io.BytesIO()
    torch.save(tokenizer.state_dict(), file)
    file.seek(0)
    loaded = from_state_dict(torch.load(file, weights_only=True))
    assert loaded.name == tokenizer.name
    assert loaded.vocab_size == tokenizer.vocab_size
    assert loaded.fingerprint == tokenizer.fingerprint
    assert loaded.encode(SAMPLE) == tokenizer.encode(SAMPLE)


def test_fingerprints_differ():
    fingerprints = [make(name).fingerprint for name in ("gpt2", "bpe", "char", "byte")]
    assert len(set(fingerprints)) == 4


JUNK = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=30), st.binary(max_size=30)),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=10,
)
NAMES = st.sampled_from(["gpt2", "bpe", "char", "byte", "", "__class__"])


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(
    state=st.one_of(
        JUNK,
        st.fixed_dictionaries({"name": NAMES | JUNK}, optional={"tokens": JUNK, "characters": JUNK, "extra": JUNK}),
    )
)
def test_junk_is_refused_or_harmless(state):
    try:
        tokenizer = from_state_dict(state)
    except UserError as error:
        assert "\n" not in str(error)
    else:
        assert tokenizer.state_dict() == state


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_mutated_vocabulary_is_refused_or_works(trained, data):
    """A saved vocabulary with a piece changed gives one sentence, or a tokenizer that still reverses."""
    saved = trained.state_dict()["tokens"]
    start = data.draw(st.integers(0, len(saved)))
    length = data.draw(st.integers(0, 40))
    tokens = saved[:start] + data.draw(st.text(max_size=10)) + saved[start + length :]
    try:
        tokenizer = from_state_dict({"name": "bpe", "tokens": tokens})
    except UserError:
        return
    assert tokenizer.decode(tokenizer.encode(SAMPLE)) == SAMPLE


@pytest.mark.parametrize(
    "state",
    [
        {"name": "char", "characters": ""},
        {"name": "char", "characters": "ba"},
        {"name": "char", "characters": "aa"},
        {"name": "char", "characters": "a\ud800"},
        {"name": "bpe", "tokens": ""},
        {"name": "bpe", "tokens": "\n" * 2_000_000},
        {"name": "gpt2", "tokens": "x"},
        {"name": ["gpt2"]},
    ],
)
def test_impossible_state_is_refused(state):
    with pytest.raises(UserError, match="saved tokenizer"):
        from_state_dict(state)


# --- start-up -------------------------------------------------------------------------------------------------------


def test_import_stays_light_and_so_does_gpt2():
    """Nothing heavy is loaded; were the vocabulary learnt or parsed from JSON, it would take more than a second."""
    code = (
        "import sys, time; import yinggem.text.tokenizer as t; s = time.process_time(); t.GPT2Tokenizer().encode('a');"
        "print(time.process_time() - s);"
        "print([m for m in ('tokenizers', 'torch', 'rich', 'lightning') if m in sys.modules])"
    )
    seconds, heavy = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split("\n")[:2]
    assert heavy == "[]"
    assert float(seconds) < 1
