"""tokenizer.json gives the ids of our tokenizers on any text, and is read back exactly or refused."""

import json
import random

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from yinggem.common.errors import UserError
from yinggem.export.hf_tokenizer import read_tokenizer, tokenizer_json
from yinggem.text.assets import SHAKESPEARE, read_asset
from yinggem.text.tokenizer import BPETokenizer, ByteTokenizer, CharTokenizer, GPT2Tokenizer, Tokenizer

TEXT = read_asset(SHAKESPEARE)[:100_000].decode() + "\nÀ la fin, 12 années! aaaaaaaaa\u3000\x85 \u2028 \t\t x\n"
SPACES = "\t\n\x0b\x0c\r \x1c\x1d\x85\xa0\u1680\u2003\u2028\u202f\u205f\u3000\u200b\ufeff\u180e"
AWKWARD = [
    "<|endoftext|>",
    "'s",
    "'LL",
    "don't",
    "''",
    "  a",
    " \n b",
    "aaaaaaa",
    "123 45",
    "\u0301e",
    "ⅷ",
    "½",
    "٣",
    "ǆ",
]
KINDS = [pytest.param(GPT2Tokenizer(), marks=pytest.mark.slow), BPETokenizer(600), CharTokenizer(), ByteTokenizer()]


def fitted(tokenizer: Tokenizer) -> Tokenizer:
    if not tokenizer.is_fitted:
        tokenizer.fit(lambda: [TEXT])
    return tokenizer


def random_text(draw: random.Random) -> str:
    """Letters, spaces, digits and marks of many scripts, pieces of real text, and what splits oddly."""
    pieces = []
    for _ in range(draw.randrange(1, 30)):
        start, kind = draw.randrange(len(TEXT) - 30), draw.random()
        if kind < 0.3:
            pieces.append(TEXT[start : start + draw.randrange(30)])
        elif kind < 0.5:
            pieces.append("".join(draw.choices(SPACES, k=draw.randrange(5))))
        elif kind < 0.7:
            pieces.append(draw.choice(AWKWARD) * draw.randrange(3) + draw.choice("ab \n!1") * draw.randrange(40))
        else:
            low, high = draw.choice([(0x80, 0x600), (0x900, 0xA00), (0x2000, 0x2E00), (0xE000, 0x110000)])
            pieces.append("".join(chr(draw.randrange(low, high)) for _ in range(draw.randrange(4))))
    return "".join(pieces)


@pytest.mark.parametrize("tokenizer", KINDS, ids=lambda tokenizer: tokenizer.name)
def test_ids_and_texts_are_ours(tokenizer):
    tokenizer, draw = fitted(tokenizer), random.Random(0)
    theirs = tokenizers.Tokenizer.from_str(tokenizer_json(tokenizer))
    assert theirs.get_vocab_size() == tokenizer.vocab_size
    for _ in range(150):
        text = random_text(draw)
        if tokenizer.name == "char":
            text = "".join(character for character in text if character in TEXT)
        ids = tokenizer.encode(text)
        assert theirs.encode(text).ids == ids
        assert theirs.decode(ids, skip_special_tokens=False) == text
        some = [draw.randrange(tokenizer.vocab_size) for _ in range(6)]  # not always UTF-8
        assert theirs.decode(some, skip_special_tokens=False) == tokenizer.decode(some)


@settings(max_examples=50, deadline=None)
@given(st.text())
def test_any_text_has_the_same_ids(text):
    ours = fitted(KINDS[1])  # type: ignore[arg-type]
    assert LIBRARY[0].encode(text).ids == ours.encode(text)


LIBRARY = [tokenizers.Tokenizer.from_str(tokenizer_json(fitted(KINDS[1])))]  # type: ignore[arg-type]


def test_an_unseen_character_is_an_error_there_too():
    theirs = tokenizers.Tokenizer.from_str(tokenizer_json(fitted(CharTokenizer())))
    with pytest.raises(Exception, match="UNK"):
        theirs.encode("\u4e00")


@pytest.mark.parametrize("tokenizer", KINDS, ids=lambda tokenizer: tokenizer.name)
def test_it_is_read_back_exactly(tokenizer):
    content = tokenizer_json(fitted(tokenizer))
    assert read_tokenizer(content, "x").fingerprint == tokenizer.fingerprint
    resaved = tokenizers.Tokenizer.from_str(content)
    resaved.enable_truncation(100)
    assert read_tokenizer(resaved.to_str(), "x").fingerprint == tokenizer.fingerprint


def changed(**parts) -> str:
    content = json.loads(tokenizer_json(fitted(BPETokenizer(300))))
    for name, value in parts.items():
        place = content if name in content else content["model"]
        place[name] = value(place[name]) if callable(value) else value
    return json.dumps(content)


@pytest.mark.parametrize(
    "content",
    [
        "", "[]", "{}", "[" * 100_000, '{"model": {}}', '{"model": {"type": "BPE", "vocab": {"a": []}}}',
        '{"model": {"type": "Unigram", "vocab": [["a", 1]]}}',
        changed(normalizer={"type": "NFC"}),
        changed(added_tokens=[{"id": 300, "content": "<s>"}]),
        changed(merges=lambda merges: merges[:-1]),
        changed(ignore_merges=False),
        changed(pre_tokenizer={"type": "Whitespace"}),
        changed(vocab=lambda vocab: vocab | {"a": 5}),
        changed(vocab=lambda vocab: {name: number + 1 for name, number in vocab.items()}),
        changed(decoder=None),
    ],
    ids=range(15),
)  # fmt: skip
def test_another_tokenizer_is_refused(content):
    with pytest.raises(UserError, match=r"tokenizer\.json describes a tokenizer that YingGem does not have"):
        read_tokenizer(content, "tokenizer.json")
