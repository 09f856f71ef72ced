"""What is made once of a text lies in the cache: for its user alone, checked, and limited in size."""

import numpy as np

from yinggem.memory.index_files import cached_bytes, cached_index

IDS = np.random.default_rng(0).integers(256, size=500).astype(np.uint8)


def test_an_index_is_made_once_kept_to_its_user_and_made_again_where_it_is_damaged(tmp_path):
    before = cached_index(IDS, 256, tmp_path)
    (path,) = (tmp_path / "memory").glob("*.ngrams")
    assert path.stat().st_mode & 0o777 == 0o600
    made = path.stat().st_ino
    assert np.array_equal(cached_index(IDS, 256, tmp_path).levels[2].grams, before.levels[2].grams)
    assert path.stat().st_ino == made
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert np.array_equal(cached_index(IDS, 256, tmp_path).levels[2].grams, before.levels[2].grams)
    assert path.stat().st_ino != made


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
