"""A glance at a text: size, scripts, English or not, of files of any kind, without reading all of a large one."""

import gzip

import pytest
from writings import ARABIC, CHINESE, CODE, EMOJI, GERMAN, JAPANESE, WORKS

from yinggem.common.errors import UserError
from yinggem.text.text_look import SAMPLE, look_at


@pytest.mark.parametrize(("text", "english", "scripts"), [
    (WORKS[:50_000], True, {"Latin"}), (WORKS[2_000_000:2_005_000], True, {"Latin"}), (GERMAN, False, {"Latin"}),
    (CHINESE, False, {"Cjk"}), (ARABIC, False, {"Arabic"}), (JAPANESE, False, {"Cjk", "Hiragana"}),
    (CODE, False, {"Latin"}), (EMOJI, False, set()), (GERMAN + CHINESE, False, {"Latin", "Cjk"}),
], ids=["works", "scene", "German", "Chinese", "Arabic", "Japanese", "code", "emoji", "two scripts"])  # fmt: skip
def test_what_it_is_written_in(tmp_path, text, english, scripts):
    (tmp_path / "text.txt").write_text(text, encoding="utf-8")
    look = look_at(tmp_path / "text.txt")
    assert (look.is_english, set(look.scripts)) == (english, scripts)
    assert look.bytes == len(text.encode()) and look.characters == len(set(text)) and look.files == 1
    assert look.bytes_per_character == pytest.approx(len(text.encode()) / len(text))
    (tmp_path / "text.txt.gz").write_bytes(gzip.compress(text.encode()))
    assert look_at(tmp_path / "text.txt.gz").bytes == len(text.encode())


def test_of_many_files_and_large_ones_a_sample_is_read(tmp_path):
    for number in range(200):
        (tmp_path / f"{number:03}.txt").write_text(f"poem {number} is here\n" * 10)
    (tmp_path / "100.txt").write_bytes(WORKS.encode() * 2 + "\N{ROCKET}".encode())  # its end is not looked at
    look = look_at(tmp_path)
    assert look.files == 200 and look.bytes == sum(path.stat().st_size for path in tmp_path.iterdir())
    assert look.bytes > SAMPLE and look.bytes_per_character == 1.0


def test_what_cannot_be_read_is_said_as_everywhere(tmp_path):
    with pytest.raises(UserError, match="Cannot read"):
        look_at(tmp_path / "nowhere.txt")
    (tmp_path / "odd.txt").write_bytes(b"\xff\xfe\xfd")
    with pytest.raises(UserError, match="not UTF-8"):
        look_at(tmp_path / "odd.txt")
