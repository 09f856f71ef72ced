"""Splits of documents: whole ones, in the order of paths, and a test part that is nobody's."""

import itertools
import json

import numpy as np
import pytest

from yinggem.common.errors import UserError
from yinggem.text.corpus import open_corpus
from yinggem.text.reading import Reading
from yinggem.text.splitting import Cuts, tokenize
from yinggem.text.tokenizer import BPETokenizer, ByteTokenizer, CharTokenizer, GPT2Tokenizer

FILES = Reading(documents="files")
SIZES = [50, 900, 20, 333, 80, 10, 300, 7, 120, 60, 40, 200]


@pytest.fixture
def poems(tmp_path):
    """Twelve documents of different lengths, as {name: text}."""
    texts = {f"{k:02}.txt": "0123456789" + f" word{k}" * size for k, size in enumerate(SIZES)}
    for name, text in texts.items():
        (tmp_path / "poems").mkdir(exist_ok=True)
        (tmp_path / "poems" / name).write_text(text + "\n")
    return texts


def documents_of(ids: np.ndarray, tokenizer) -> list[str]:
    """The texts between end ids; the ids begin and end with one."""
    ends = np.flatnonzero(ids == tokenizer.end_id)
    assert ends[0] == 0 and ends[-1] == len(ids) - 1
    return [tokenizer.decode(ids[a + 1 : b]) for a, b in itertools.pairwise(ends)]


@pytest.mark.parametrize(
    ("make", "val", "test"),
    [(GPT2Tokenizer, 0.1, 0.1), (lambda: BPETokenizer(262), 0.3, 0.2), (CharTokenizer, 0.1, 0.0)]
    + [(ByteTokenizer, *fractions) for fractions in ((0.1, 0.0), (0.1, 0.1), (0.001, 0.001), (0.9, 0))],
)
def test_documents_are_whole_and_each_is_in_one_part(tmp_path, poems, make, val, test):
    tokenizer = make()
    corpus = open_corpus("text", tmp_path / "poems", tmp_path / "c", FILES)
    split = tokenize(corpus, tokenizer, tmp_path / "c", val, "characters", test)
    parts = [split.train, split.val, *([split.test] if split.test else [])]
    texts = [documents_of(part[:], tokenizer) for part in parts]
    assert list(itertools.chain(*texts)) == list(poems.values())
    assert all(texts) and len(parts) == 2 + bool(test)
    # No other border between documents is nearer to where the last characters begin.
    places = np.cumsum([len(text) + 1 for text in poems.values()])
    total, cut = places[-1], sum(len(text) + 1 for text in texts[0])
    assert abs(cut - total * (1 - val - test)) <= np.abs(places[:-1] - total * (1 - val - test)).min() + 1 or test


def test_ids_without_documents_and_their_vocabulary_stay_as_they_are(tmp_path, poems):
    for make in (GPT2Tokenizer, lambda: BPETokenizer(262), ByteTokenizer):
        plain, marked = make(), make()
        text = open_corpus("text", tmp_path / "poems" / "01.txt", tmp_path / "c")
        tokenize(text, plain, tmp_path / "c")
        assert plain.end_id is None and plain.state_dict().keys() <= {"name", "tokens"}
        marked.load_state_dict(plain.state_dict())
        marked.mark_documents()
        assert marked.encode("word1 and more") == plain.encode("word1 and more")
        assert marked.vocab_size == plain.vocab_size + (plain.name != "gpt2")


def test_few_documents_are_cut_by_characters(tmp_path, poems):
    for name in list(poems)[9:]:
        (tmp_path / "poems" / name).unlink()
    corpus = open_corpus("text", tmp_path / "poems", tmp_path / "c", FILES)
    cuts, tokenizer = Cuts.of(corpus), ByteTokenizer()
    assert not cuts.whole and cuts.val == int(corpus.characters * 0.9)
    split = tokenize(corpus, tokenizer, tmp_path / "c")
    assert split.train[0:1][0] == tokenizer.end_id != split.val[0:1][0]
    assert len(split.train) - 1 + len(split.val) == corpus.characters


def test_a_test_part_of_one_long_text(tmp_path):
    (tmp_path / "x.txt").write_text("".join(map(str, range(3000))))
    corpus = open_corpus("text", tmp_path / "x.txt", tmp_path / "c")
    whole = tokenize(corpus, ByteTokenizer(), tmp_path / "c", 0)
    for split_by in ("characters", "tokens"):
        split = tokenize(corpus, ByteTokenizer(), tmp_path / "c", 0.2, split_by, 0.1)
        assert split.test is not None
        lengths = [len(part) for part in (split.train, split.val, split.test)]
        assert np.allclose(np.array(lengths) / corpus.characters, [0.7, 0.2, 0.1], atol=1e-3)
        assert np.array_equal((split.train + split.val + split.test)[:], whole.train[:])
    assert tokenize(corpus, ByteTokenizer(), tmp_path / "c").test is None


def test_nothing_of_the_held_out_parts_is_learnt(tmp_path):
    texts = ["abc " * 30] * 12 + ["xyz " * 30] * 4
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    corpus = open_corpus("text", tmp_path / "a.jsonl", tmp_path / "c", Reading(documents="rows"))
    with pytest.raises(UserError, match="never saw 'x'"):
        tokenize(corpus, CharTokenizer(), tmp_path / "c", 0.125, "characters", 0.125)


@pytest.mark.parametrize(("val", "test"), [(0.5, 0.5), (0.1, 1), (0.1, -0.1), (0.1, None), (0.1, "x")])
def test_fractions_that_leave_nothing(tmp_path, val, test):
    (tmp_path / "x.txt").write_text("text " * 50)
    with pytest.raises(UserError, match=r"data\.test_fraction"):
        tokenize(open_corpus("text", tmp_path / "x.txt", tmp_path), ByteTokenizer(), tmp_path, val, "characters", test)
