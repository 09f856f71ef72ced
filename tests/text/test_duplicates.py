"""Duplicates between the splits, against sets of shingles compared one by one."""

import json
import random
import re

import pytest

from yinggem.text.corpus import open_corpus
from yinggem.text.duplicates import duplicates_note, notes_on_split
from yinggem.text.reading import Reading
from yinggem.text.sketches import NEAR, SKETCH, Sketches, are_near
from yinggem.text.splitting import Cuts

HOW = (0.1, "characters", 0.0)


def poem(generator: random.Random, words: int) -> list[str]:
    return [f"w{generator.randrange(3000)}" for _ in range(words)]


def changed(generator: random.Random, words: list[str], places: int) -> list[str]:
    words = list(words)
    for place in generator.sample(range(len(words)), places):
        words[place] = "changed"
    return words


def shingles(text: str) -> set[tuple[str, ...]]:
    words = re.findall(r"\w+", text.lower())
    return {tuple(words[k : k + 5]) for k in range(max(1, len(words) - 4))}


def near(one: str, other: str) -> bool:
    a, b = shingles(one), shingles(other)
    return len(a & b) >= NEAR * max(len(a), len(b))


def opened(tmp_path, texts: list[str], **reading: str):
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return open_corpus("text", tmp_path / "a.jsonl", tmp_path / "c", Reading(documents="rows", **reading))


def test_exact_and_near_ones_are_counted_and_named(tmp_path):
    generator = random.Random(0)
    train = [poem(generator, generator.randint(20, 120)) for _ in range(300)]
    val = [poem(generator, 60) for _ in range(30)]
    val[3], val[4], val[5] = train[7], train[7], train[100]
    val[10] = changed(generator, train[20], 1)
    texts = [" ".join(words) for words in train + val]
    texts[300 + 10] = texts[300 + 10].upper().replace(" ", ",\n")  # as near in other letters and lines
    corpus = opened(tmp_path, texts)
    cut = sum(len(text) + 1 for text in texts[:300])
    expected = sum(near(texts[20], text) for text in texts[300:])
    note = duplicates_note(corpus, cut)
    assert note.startswith(f"3 of 30 documents outside the training split stand in it as well, and {expected} nearly")
    assert "a.jsonl (304) = " in note and "a.jsonl (8), " in note and "(311) ~ " in note and "\n" not in note
    assert duplicates_note(opened(tmp_path, texts[:303]), cut) == ""


@pytest.mark.parametrize("length", [30, 1 << 20], ids=["short", "as long as a batch"])
def test_a_text_of_copies_alone(tmp_path, length):
    corpus = opened(tmp_path, [("la " * length)[:length]] * 12)
    cut = Cuts.of(corpus, 0.1).val
    assert duplicates_note(corpus, cut).startswith("1 of 1 documents outside the training split stand in it as well")


@pytest.mark.parametrize("words", [3, 4, 5, 6, 40, SKETCH])
def test_short_documents_are_compared_exactly(words):
    generator, checked = random.Random(words), set()
    for _ in range(60):
        one = poem(generator, words)
        other = changed(generator, one, generator.randrange(min(words, 6)))[generator.randrange(2) :]
        texts = [" ".join(one), " ".join(other)]
        hashes, owners, sizes = Sketches().of(texts)
        assert sizes.tolist() == [len(shingles(text)) for text in texts]
        found = are_near(hashes[owners == 0], hashes[owners == 1], *sizes.tolist())
        assert found == near(*texts)
        checked.add(found)
    assert checked == {True, False} or words in (3, 4, 5, SKETCH)


def test_long_ones_are_told_apart_by_their_sketches():
    generator = random.Random(1)
    one = poem(generator, 4000)
    for places, expected in ((0, True), (40, True), (300, False)):
        hashes, owners, sizes = Sketches().of([" ".join(one), " ".join(changed(generator, one, places))])
        assert are_near(hashes[owners == 0], hashes[owners == 1], *sizes.tolist()) is expected


def test_texts_without_spaces_and_without_words(tmp_path):
    line = "明月几时有把酒问青天不知天上宫阙今夕是何年我欲乘风归去又恐琼楼玉宇高处不胜寒"
    texts = [f"{line[k:]}{line[:k]}" for k in range(12)] + ["🙂", "…", line.replace("今夕", "今昔") + line[:9]]
    corpus = opened(tmp_path, [line + line[:9], *texts])
    note = duplicates_note(corpus, sum(len(text) + 1 for text in [line + line[:9], *texts[:12]]))
    assert note.startswith("0 of 3") and "1 nearly" in note and "(16) ~ " in note


def test_the_notes_of_a_split(tmp_path):
    texts = [f"{k} " * 40 for k in range(30)]
    assert notes_on_split(opened(tmp_path, texts), HOW, tmp_path / "c") == []
    for _ in range(2):  # made, and from the cache
        (note,) = notes_on_split(opened(tmp_path, [*texts, texts[0]]), HOW, tmp_path / "c")
        assert note.startswith("1 of ")
    few = opened(tmp_path, texts[:5])
    assert notes_on_split(few, HOW, tmp_path / "c")[0].startswith("The text has 5 documents, fewer than 10, so one")
    assert not Cuts.of(few).whole
    (one,) = notes_on_split(opened(tmp_path, texts[:1]), HOW, tmp_path / "c")
    assert one == "The whole text is one document, of which a part is in each split."
    plain = open_corpus("text", tmp_path / "a.jsonl", tmp_path / "c")
    assert notes_on_split(plain, HOW, tmp_path / "c") == []
