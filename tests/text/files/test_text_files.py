"""Which files data.path names: what a run wrote and what is hidden is no corpus, copies are named, URLs refused."""

import os
import sys
from pathlib import Path

import pytest

from yinggem.common.errors import UserError
from yinggem.text.corpus import open_corpus
from yinggem.text.files import formats
from yinggem.text.files.text_files import find_text_files


def write(path: Path, content: str = "text\n") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return path


def found(folder: Path, path: object, cache_dir: Path | None = None) -> list[str]:
    return [str(file.relative_to(folder)) for file in find_text_files(str(path), cache_dir)]


# --- what a run left is no corpus ------------------------------------------------------------------------------------

RUNS = {  # what is in the folder of a run or sweep, however the folder is called, and a text in it
    "outputs/2026-01-01/00-00-00": (".hydra/config.yaml", "samples.txt"),
    "elsewhere": ("checkpoints/last.ckpt", "samples.txt"),
    "renamed run": ("checkpoints/best.ckpt", "more/fit-profile.txt"),
    "many": ("multirun.yaml", "0/samples.txt"),
}


@pytest.fixture
def poems(tmp_path):
    """A folder with two poems, and runs beside them."""
    for folder, (mark, text) in RUNS.items():
        write(tmp_path / folder / mark, "seed: 0\n")
        write(tmp_path / folder / text, "written by a model\n")
    write(tmp_path / "poem.txt")
    write(tmp_path / "outputs" / "2026-01-01" / "poem.txt")  # below a folder of that name, and no run's
    return tmp_path


def test_the_folders_of_runs_are_no_corpus(poems):
    wanted = ["outputs/2026-01-01/poem.txt", "poem.txt"]
    assert found(poems, poems) == wanted
    assert found(poems, poems / "**" / "*.txt") == wanted
    assert found(poems, poems / "*" / "*" / "*.txt") == ["outputs/2026-01-01/poem.txt"]
    with pytest.raises(UserError, match="folders of runs"):
        find_text_files(poems / "*" / "samples.txt")


@pytest.mark.parametrize(("folder", "text"), [(folder, text) for folder, (_, text) in RUNS.items()])
def test_what_a_run_wrote_is_read_where_it_is_named(poems, folder, text):
    place, name = (poems / folder / text).parent, Path(text).name
    assert found(place, place / name) == found(place, place / "*.txt") == [name]
    assert found(poems / folder, poems / folder) == [text]


def test_in_the_folder_of_the_poems_a_dot_names_it(poems, monkeypatch):
    monkeypatch.chdir(poems)
    assert list(find_text_files(".")) == [Path("outputs/2026-01-01/poem.txt"), Path("poem.txt")]
    assert list(find_text_files("*.txt")) == [Path("poem.txt")]


def test_the_cache_below_data_path_is_no_corpus(tmp_path):
    write(tmp_path / "poem.txt")
    write(tmp_path / "cache" / "tinyshakespeare.txt")
    assert found(tmp_path, tmp_path, tmp_path / "cache") == ["poem.txt"]
    assert found(tmp_path, tmp_path / "**" / "*.txt", tmp_path / "cache") == ["poem.txt"]


# --- hidden files and copies -----------------------------------------------------------------------------------------

HIDDEN = [".ipynb_checkpoints/a-checkpoint.txt", "._a.txt", ".git/notes.txt", "deep/.Trash-1000/b.txt", "deep/.~b.txt"]


@pytest.fixture
def desk(tmp_path):
    """A folder that an editor, a notebook, git and macOS have been in."""
    for name in ["a.txt", "deep/b.txt", *HIDDEN]:
        write(tmp_path / name, f"text of {name}\n")
    return tmp_path


def test_hidden_files_and_folders_are_left_out(desk):
    assert found(desk, desk) == ["a.txt", "deep/b.txt"]
    assert found(desk, desk / "**" / "*.txt") == found(desk, desk / "**" / "*") == ["a.txt", "deep/b.txt"]
    assert found(desk, desk / "*") == ["a.txt"]


@pytest.mark.parametrize("name", HIDDEN)
def test_hidden_files_are_read_where_they_are_named(desk, name):
    assert found(desk, desk / name) == [name]
    assert found(desk, (desk / name).with_name(f"{Path(name).name[:2]}*")) == [name]


def test_a_folder_below_a_hidden_one_is_like_any_other(tmp_path):
    write(tmp_path / ".data" / "poems" / "a.txt")
    assert found(tmp_path, tmp_path / ".data" / "poems") == [".data/poems/a.txt"]


def test_copies_are_named(tmp_path):
    for name, text in {"a": "one", "b": "two", "c/a": "one", "d": "one", "e": "", "f": ""}.items():
        write(tmp_path / f"{name}.txt", text)
    (tmp_path / "g.txt").symlink_to(tmp_path / "b.txt")
    corpus = open_corpus("text", tmp_path)
    assert [Path(path).name for path in corpus.copies] == ["a.txt", "d.txt", "g.txt"]
    (note,) = corpus.notes
    assert "3 of 7 files are copies of others" in note and str(tmp_path / "c" / "a.txt") in note
    assert "\n" not in note and "d.txt" in note


@pytest.mark.parametrize("texts", [["one"], ["one", "two", "six"], ["", "", ""], ["a\n", "a\r\n"]])
def test_different_files_are_not_called_copies(tmp_path, texts):
    for number, text in enumerate([*texts, "more"]):
        (tmp_path / f"{number}.txt").write_bytes(text.encode())
    assert open_corpus("text", tmp_path).notes == []


# --- names ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("url", [
    "https://example.org/a.txt", "http://[::1]/a.txt", "s3://bucket/poems", "HTTPS://EXAMPLE.ORG", "file:///tmp/a.txt",
    "hf://datasets/poems", "git+ssh://host/a",
])  # fmt: skip
def test_urls_are_refused_as_such(url):
    for source in ("text", "tinyshakespeare"):
        with pytest.raises(UserError, match="download the text and name the file"):
            open_corpus(source, url)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")
@pytest.mark.parametrize("where", ["folder", "file", "both"])
def test_names_that_are_not_utf8(tmp_path, where):
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + (b"/caf\xe9" if where != "file" else b"/cafe")))
    file = Path(os.fsdecode(os.fsencode(folder) + (b"/po\xe8me\xff.txt" if where != "folder" else b"/poem.txt")))
    write(file, "one\n")
    write(file.with_name("z.txt"), "one\n")
    for path in (str(folder), str(folder / "*.txt"), str(folder / "**" / "*.txt")):
        corpus = open_corpus("text", path, folder / "cache")
        assert "".join(corpus.iter_text()) == "one\none\n"
        assert corpus.notes[0].isascii() and "z.txt" in corpus.notes[0]
    write(file.with_name("bad.txt")).write_bytes(b"\xff")
    with pytest.raises(UserError, match=r"bad\.txt is not UTF-8") as caught:
        open_corpus("text", str(folder))
    str(caught.value).encode()  # can be printed


# --- formats ----------------------------------------------------------------------------------------------------------


def test_another_format_is_one_entry(tmp_path, monkeypatch):
    """A reader takes blocks of bytes; the folder is searched for its suffix, and its files are joined like others."""

    def read_shouted(blocks, name, encoding):
        for text in formats.read_plain_text(blocks, name, encoding):
            yield text.lower()

    monkeypatch.setitem(formats.READERS, ".loud", read_shouted)
    write(tmp_path / "a.loud", "OH")
    write(tmp_path / "b.txt", "OH")
    assert "".join(open_corpus("text", tmp_path).iter_text()) == "oh\nOH"
    assert "".join(open_corpus("text", tmp_path / "a.loud").iter_text()) == "oh"
