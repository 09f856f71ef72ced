"""Encodings: any can be named, and one that was not named is guessed in the sentence."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from yinggem.common.errors import UserError
from yinggem.text.corpus import open_corpus
from yinggem.text.files.charset import decoded_text, looks_like
from yinggem.text.reading import Reading

FRENCH = "Été à la plage — l'âme naïve, « cœur » d'hiver.\r\nÀ bientôt.\n" * 5


@settings(max_examples=50)
@given(
    text=st.text(alphabet="aé\r\n—ß", min_size=1, max_size=40),
    encoding=st.sampled_from(["cp1252", "utf-16", "utf-16-le", "utf-8-sig", "utf-32"]),
    size=st.integers(1, 9),
)
def test_any_blocks_in_any_encoding_are_the_text(text, encoding, size):
    content = text.encode(encoding)
    try:
        content.decode("utf-8")
        certain = encoding != "utf-8-sig" and not content.isascii() and b"\0" not in content
    except UnicodeDecodeError:
        certain = False
    if certain:
        return  # another test's matter
    blocks = [content[k : k + size] for k in range(0, len(content), size)]
    decoded = "".join(decoded_text(blocks, "x", encoding))
    assert decoded == text.replace("\r\n", "\n").replace("\r", "\n")


@pytest.mark.parametrize("encoding", ["cp1252", "utf-16", "utf-16-le", "utf-16-be"])
def test_the_sentence_names_an_encoding_with_which_it_can_be_read(tmp_path, encoding):
    path = tmp_path / "poem.txt"
    path.write_bytes(FRENCH.encode(encoding))
    with pytest.raises(UserError, match=r"poem\.txt is not UTF-8 at byte offset \d+; it looks like (\S+):") as caught:
        open_corpus("text", path, tmp_path / "cache")
    guess = str(caught.value).split("data.encoding=")[1].split()[0]
    corpus = open_corpus("text", path, tmp_path / "cache", Reading(encoding=guess))
    assert "".join(corpus.iter_text()) == FRENCH.replace("\r\n", "\n")


def test_russian_is_not_taken_for_western():
    assert looks_like(("Мой дядя самых честных правил, когда не в шутку занемог. " * 20).encode("koi8-r")) == "koi8_r"


def test_no_guess_is_made_of_what_is_no_text(tmp_path):
    path = tmp_path / "picture.txt"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 4)
    with pytest.raises(UserError, match="if it is text, convert it"):
        open_corpus("text", path, tmp_path / "cache")


def test_mixed_encodings_are_one_sentence_whichever_is_named(tmp_path):
    (tmp_path / "a.txt").write_bytes(FRENCH.encode("cp1252"))
    (tmp_path / "b.txt").write_bytes(FRENCH.encode())
    with pytest.raises(UserError, match=r"a\.txt is not UTF-8 .* looks like cp1252: set data\.encoding=cp1252 if all"):
        open_corpus("text", tmp_path, tmp_path / "cache")
    with pytest.raises(UserError, match=r"b\.txt is UTF-8, not cp1252"):
        open_corpus("text", tmp_path, tmp_path / "cache", Reading(encoding="cp1252"))


@pytest.mark.parametrize("encoding", ["klingon", "hex", "rot13", "", None, 7, "\0"])
def test_an_unknown_encoding_is_refused(encoding):
    with pytest.raises(UserError, match=r"data\.encoding="):
        Reading(encoding=encoding)


def test_half_characters_that_an_encoding_can_spell_are_refused():
    with pytest.raises(UserError, match="is not UTF-7"):
        list(decoded_text([b"+2AA-"], "x", "utf-7"))
