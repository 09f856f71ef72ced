"""What is made once of a text lies in the cache: for its user alone, checked, and limited in size."""

import random

import numpy as np

from yinggem.memory.index import build_index
from yinggem.memory.index_files import cached_bytes, cached_index, open_index, write_index

IDS = np.random.default_rng(0).integers(256, size=500).astype(np.uint8)


def test_an_index_is_made_once_kept_to_its_user_and_made_again_where_it_is_damaged(tmp_path):
    before = cached_index(IDS, 256, tmp_path)
    (path,) = (tmp_path / "memory").glob("*.ngrams")
    assert path.stat().st_mode & 0o777 == 0o600
    made = path.stat().st_ino
    assert np.array_equal(cached_index(IDS, 256, tmp_path).suffixes, before.suffixes)
    assert path.stat().st_ino == made
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert np.array_equal(cached_index(IDS, 256, tmp_path).suffixes, before.suffixes)
    assert path.stat().st_ino != made


def test_a_file_gives_back_the_index_of_its_text_alone(tmp_path):
    ids = (np.random.default_rng(1).zipf(1.5, 4000) % 65).astype(np.uint8)
    index = build_index(ids, 65)
    with open(tmp_path / "a", "wb") as file:
        write_index(file, index)
    found = open_index(tmp_path / "a", ids, 65)
    assert found is not None and found.nbytes == index.nbytes
    for name in ("ids", "suffixes", "firsts", "alone", "discounts"):
        assert np.array_equal(getattr(index, name), getattr(found, name))
        assert getattr(index, name).dtype == getattr(found, name).dtype
    for mine, yours in zip(index.marks, found.marks, strict=True):
        assert np.array_equal(mine.words, yours.words) and np.array_equal(mine.sums, yours.sums)
    assert open_index(tmp_path / "a", ids[:-1], 65) is None and open_index(tmp_path / "a", ids, 66) is None


def test_a_damaged_file_is_not_opened(tmp_path):
    with open(tmp_path / "a", "wb") as file:
        write_index(file, build_index(IDS, 256))
    content, draw = (tmp_path / "a").read_bytes(), random.Random(0)
    assert open_index(tmp_path / "b", IDS, 256) is None
    for size in (0, 5, 17, 40, 300, len(content) - 64):
        (tmp_path / "b").write_bytes(content[:size])
        assert open_index(tmp_path / "b", IDS, 256) is None, size
    opened = 0
    for _ in range(200):
        damaged = bytearray(content)
        damaged[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
        (tmp_path / "b").write_bytes(damaged)
        opened += open_index(tmp_path / "b", IDS, 256) is not None
    assert opened < 40  # bits of the padding between arrays mean nothing; all others are noticed


def test_bytes_are_made_once_and_again_where_they_are_damaged(tmp_path):
    made = []

    def make() -> bytes:
        made.append(1)
        return b"packed"

    assert [cached_bytes(IDS, 256, make, tmp_path) for _ in range(2)] == [b"packed"] * 2 and len(made) == 1
    (path,) = (tmp_path / "memory").glob("*.packed")
    path.write_bytes(b"....packed")
    assert cached_bytes(IDS, 256, make, tmp_path) == b"packed" and len(made) == 2


def test_another_text_or_vocabulary_has_another_index(tmp_path):
    for ids, size in ((IDS, 256), (IDS[1:], 256), (IDS, 300), (IDS.astype(np.uint16), 256)):
        cached_index(ids, size, tmp_path)
    assert len(list((tmp_path / "memory").glob("*.ngrams"))) == 4


def test_what_was_used_longest_ago_goes_first(tmp_path, monkeypatch):
    monkeypatch.setattr("yinggem.memory.index_files.MOST_BYTES", 1)
    for seed in range(3):
        cached_index(IDS[seed:], 256, tmp_path)
    assert len(list((tmp_path / "memory").glob("*.ngrams"))) == 1
