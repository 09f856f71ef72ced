"""Corpus and token cache: the right text, split and encoded as defined; bad input, kills and neighbours do no harm."""

import hashlib
import http.server
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from running import sized

from yinggem.common import cache_folder
from yinggem.common.errors import UserError
from yinggem.text import corpus as corpus_module
from yinggem.text.corpus import open_corpus
from yinggem.text.encoding import encode_parallel
from yinggem.text.files import compression, tinyshakespeare
from yinggem.text.splitting import tokenize
from yinggem.text.tokenizer import BPETokenizer, ByteTokenizer, CharTokenizer, GPT2Tokenizer

ROOT = Path(__file__).parents[2]
VERSE = "Shall I compare thee to a summer's day?\nThou art more lovely and more temperate:\n\n"


def read(corpus):
    return "".join(corpus.iter_text())


def write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


# --- which text -----------------------------------------------------------------------------------------------------


def test_shakespeare_ships():
    corpus = open_corpus("shakespeare")
    text = read(corpus)
    assert corpus.characters == len(text) == 5_038_633
    assert corpus.fingerprint == hashlib.sha256(text.encode()).hexdigest()
    assert text.isascii()
    assert "HAMLET, PRINCE OF DENMARK" in text
    assert "\nROSALIND.\n" in text
    assert "  \n" not in text and "\n\n\n\n" not in text
    for boilerplate in ("Gutenberg", "Etext", "by William Shakespeare", "http"):
        assert boilerplate not in text
    # A character model never meets an unknown letter in validation.
    cut = int(len(text) * 0.9)
    assert set(text[cut:]) <= set(text[:cut])


def test_folder_is_searched_in_order_of_path(tmp_path):
    write(tmp_path / "b.txt", "second\n")
    write(tmp_path / "a" / "deep" / "x.TXT", "first, without a line end")
    write(tmp_path / "c.txt", "third")
    write(tmp_path / "notes.rst", "not this")
    expected = "first, without a line end\nsecond\nthird"
    assert read(open_corpus("text", tmp_path)) == expected
    assert read(open_corpus("text", f"{tmp_path}/**/*.[tT]*")) == expected
    assert read(open_corpus("text", f"{tmp_path}/?.txt")) == "second\nthird"


def test_file_whose_name_looks_like_a_glob(tmp_path):
    assert read(open_corpus("text", write(tmp_path / "poems [1].txt", VERSE))) == VERSE


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    parts=st.lists(st.text(alphabet="a\r\n é🙂\ufeff", max_size=30), min_size=1, max_size=4),
    bom=st.booleans(),
    block=st.integers(1, 7),
)
def test_text_is_what_python_reads(tmp_path, parts, bom, block):
    """Any split into blocks gives the text that open(newline=None) gives, for several files with line ends between."""
    folder = tmp_path / "many"
    folder.mkdir(exist_ok=True)
    for old in folder.iterdir():
        old.unlink()
    expected = ""
    for number, part in enumerate(parts):
        write(folder / f"{number}.txt", part.encode("utf-8-sig" if bom else "utf-8"))
        with open(folder / f"{number}.txt", encoding="utf-8-sig", newline=None) as file:
            text = file.read()
        expected += "\n" * bool(text and expected and expected[-1] != "\n") + text
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compression, "BLOCK_BYTES", block)
        patch.setattr(corpus_module, "CHUNK_CHARACTERS", block)
        if not expected:
            with pytest.raises(UserError, match="empty"):
                open_corpus("text", folder)
            return
        corpus = open_corpus("text", folder)
        chunks = list(corpus.iter_text())
    assert "".join(chunks) == expected
    assert all(len(chunk) == block for chunk in chunks[:-1])
    assert corpus.fingerprint == hashlib.sha256(expected.encode()).hexdigest()


@pytest.mark.parametrize("offset", [0, 5, 2**20 - 1, 2**20, 2**20 + 3])
@pytest.mark.parametrize("bad", [b"\xff", b"\xc3\x28", b"\xed\xa0\x80", b"\xe2\x82"])
def test_offset_of_what_is_not_utf8(tmp_path, offset, bad):
    path = write(tmp_path / "latin.txt", b"a" * offset + bad)
    with pytest.raises(UserError, match=rf"latin\.txt is not UTF-8 at byte offset {offset};"):
        open_corpus("text", path)


def test_offset_counts_a_character_split_by_a_block(tmp_path):
    path = write(tmp_path / "x.txt", b"a" * (2**20 - 1) + "é".encode() + b"\xff")
    with pytest.raises(UserError, match=f"offset {2**20 + 1};"):
        open_corpus("text", path)


@pytest.mark.parametrize(
    ("path", "sentence"),
    [
        ("missing.txt", "missing.txt"),
        ("empty.txt", "empty"),
        ("only_bom.txt", "empty"),
        ("nothing", r"no \.txt, .* file"),
        ("*.nothing", r"no \.txt, .* file"),
        ("pipe", "not a regular file"),
        ("dangling", "dangling"),
        ("x\0y", "NUL"),
        ("n" * 300, "name too long"),
        ("", r"data\.path"),
        (None, r"data\.path"),
    ],
)
def test_bad_paths(tmp_path, path, sentence):
    write(tmp_path / "empty.txt", "")
    write(tmp_path / "only_bom.txt", b"\xef\xbb\xbf")
    (tmp_path / "nothing").mkdir()
    (tmp_path / "dangling").mkdir()
    (tmp_path / "dangling" / "gone.txt").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match=f"(?i){sentence}") as caught:
        open_corpus("text", f"{tmp_path}/{path}" if path else path)
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="needs /dev/zero")
def test_endless_device_is_refused():
    with pytest.raises(UserError, match="not a regular file"):
        open_corpus("text", "/dev/zero")


def test_a_path_beside_the_text_that_ships_is_refused():
    with pytest.raises(UserError, match=r"data=text to use data\.path=poems"):
        open_corpus("shakespeare", "poems")


def test_unknown_source():
    with pytest.raises(UserError, match="choose shakespeare, tinyshakespeare or text"):
        open_corpus("milton")


# --- tiny Shakespeare -----------------------------------------------------------------------------------------------


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A real HTTP server in place of the real address, on a folder that the test fills."""
    folder = tmp_path / "www"
    folder.mkdir()
    handler = type("Handler", (http.server.SimpleHTTPRequestHandler,), {"log_message": lambda *_: None})
    httpd = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), lambda *arguments: handler(*arguments, directory=str(folder))
    )
    threading.Thread(target=httpd.serve_forever, args=(0.01,), daemon=True).start()
    monkeypatch.setattr(tinyshakespeare, "URL", f"http://127.0.0.1:{httpd.server_port}/input.txt")
    yield folder
    httpd.shutdown()
    httpd.server_close()


def test_tinyshakespeare_downloads_once_and_repairs_its_copy(server, tmp_path, tinyshakespeare_path):
    cache = tmp_path / "cache"
    cache.mkdir()
    content = tinyshakespeare_path.read_bytes()
    write(server / "input.txt", content)
    assert open_corpus("tinyshakespeare", cache_dir=cache).characters == len(content)
    (server / "input.txt").unlink()
    assert read(open_corpus("tinyshakespeare", cache_dir=cache)).encode() == content
    write(cache / "tinyshakespeare.txt", content[:-1])
    write(server / "input.txt", content)
    assert read(open_corpus("tinyshakespeare", cache_dir=cache)).encode() == content


@pytest.mark.parametrize("content", [None, b"<html>moved</html>", b"x" * 2_000_000])
def test_download_that_fails_names_the_remedy(server, tmp_path, content):
    if content is not None:
        write(server / "input.txt", content)
    with pytest.raises(UserError, match=r"data\.path=FILE, or use data=shakespeare"):
        open_corpus("tinyshakespeare", cache_dir=tmp_path / "cache")
    assert not (tmp_path / "cache" / "tinyshakespeare.txt").exists()


def test_no_network_names_the_remedy(tmp_path, monkeypatch):
    monkeypatch.setattr(tinyshakespeare, "URL", "http://127.0.0.1:9/input.txt")
    with pytest.raises(UserError, match=r"data\.path=FILE"):
        open_corpus("tinyshakespeare", cache_dir=tmp_path)


def test_other_text_is_not_tinyshakespeare(tmp_path):
    with pytest.raises(UserError, match="data=text"):
        open_corpus("tinyshakespeare", write(tmp_path / "x.txt", VERSE))


# --- split and tokens -----------------------------------------------------------------------------------------------


def test_known_answer_of_nanogpt(tinyshakespeare_path, tmp_path):
    split = tokenize(open_corpus("tinyshakespeare", tinyshakespeare_path), GPT2Tokenizer(), tmp_path)
    assert (len(split.train), len(split.val)) == (301_966, 36_059)
    assert split.train.dtype == np.uint16
    # design.md, section 6: 3.093 UTF-8 bytes per validation token.
    assert round(split.val_bytes / (len(split.val) - 1), 3) == 3.093


@pytest.mark.parametrize("make", [GPT2Tokenizer, lambda: BPETokenizer(vocab_size=300), CharTokenizer, ByteTokenizer])
@pytest.mark.parametrize("val_fraction", [0.1, 0.25, 0])
def test_splits(tmp_path, make, val_fraction):
    text = "".join(f"{VERSE}{i} naïve 🙂\r\n" for i in range(300))
    corpus = open_corpus("text", write(tmp_path / "x.txt", text + VERSE * 40))
    text = text.replace("\r\n", "\n") + VERSE * 40
    cut = int(len(text) * (1 - val_fraction))
    tokenizer = make()
    by_characters = tokenize(corpus, tokenizer, tmp_path / "c", val_fraction)
    assert by_characters.train[:].tolist() == tokenizer.encode(text[:cut])
    assert by_characters.val[:].tolist() == tokenizer.encode(text[cut:])
    predicted = tokenizer.decode_bytes(by_characters.val[1:])
    assert by_characters.val_bytes == len(predicted)
    by_tokens = tokenize(corpus, tokenizer, tmp_path / "c", val_fraction, split_by="tokens")
    assert by_tokens.train[:].tolist() + by_tokens.val[:].tolist() == tokenizer.encode(text)
    assert len(by_tokens.train) == int(len(tokenizer.encode(text)) * (1 - val_fraction))


def test_tokenizer_is_fitted_to_the_training_split_alone(tmp_path):
    train, val = VERSE * 90, VERSE.upper() * 10
    corpus = open_corpus("text", write(tmp_path / "x.txt", train + val))
    fitted, reference = BPETokenizer(vocab_size=300), BPETokenizer(vocab_size=300)
    tokenize(corpus, fitted, tmp_path)
    reference.fit(lambda: [train])
    assert fitted.tokens == reference.tokens
    with pytest.raises(UserError, match="never saw 'A'"):
        tokenize(corpus, CharTokenizer(), tmp_path)
    assert not list(tmp_path.glob(".*.partial"))


@pytest.fixture(scope="module")
def gpt2():
    return GPT2Tokenizer()


@settings(max_examples=100, deadline=None)
@given(
    texts=st.lists(st.text(alphabet="ab \n\t'lé🙂1!", max_size=60), max_size=12),
    limit=st.integers(8, 40),
)
def test_streaming_in_pieces_is_encoding_the_whole(gpt2, texts, limit):
    """However the text arrives, the pieces encoded in parallel join to the ids of the whole text."""
    whole = "".join(texts)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("yinggem.text.bpe.pieces.__defaults__", (limit,))
        parts = list(encode_parallel(texts, gpt2))
        expected = gpt2.encode(whole)
    assert sum(characters for characters, _ in parts) == len(whole)
    assert [i for _, ids in parts for i in ids.tolist()] == expected


@pytest.mark.parametrize("fraction", [-0.1, 1, 1.5, float("nan"), "0.1", None, True])
def test_val_fraction_out_of_range(tmp_path, fraction):
    with pytest.raises(UserError, match="val_fraction"):
        tokenize(open_corpus("text", write(tmp_path / "x.txt", VERSE)), ByteTokenizer(), tmp_path, fraction)


def test_unknown_split(tmp_path):
    with pytest.raises(UserError, match="split_by"):
        tokenize(open_corpus("text", write(tmp_path / "x.txt", VERSE)), ByteTokenizer(), tmp_path, split_by="lines")


# --- cache ----------------------------------------------------------------------------------------------------------


def snapshot(folder: Path) -> dict[str, tuple[int, int]]:
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in folder.iterdir()}


@pytest.fixture
def cached(tmp_path):
    """A corpus, a fresh unfitted tokenizer, the cache folder it was tokenized into, and the expected ids."""
    corpus = open_corpus("text", write(tmp_path / "text" / "x.txt", VERSE * 200))
    folder = tmp_path / "cache"
    split = tokenize(corpus, BPETokenizer(vocab_size=280), folder)
    return corpus, folder, (split.train + split.val)[:].tolist()


def retokenize(cached) -> None:
    corpus, folder, expected = cached
    split = tokenize(corpus, BPETokenizer(vocab_size=280), folder)
    assert [*split.train[:].tolist(), *split.val[:].tolist()] == expected


def test_second_run_reads_the_cache(cached):
    before = snapshot(cached[1])
    retokenize(cached)
    assert snapshot(cached[1]) == before


def test_other_text_tokenizer_or_split_has_its_own_file(cached, tmp_path):
    corpus, folder, _ = cached
    count = len(list(folder.glob("*.tokens")))
    tokenize(corpus, BPETokenizer(vocab_size=281), folder)
    tokenize(corpus, BPETokenizer(vocab_size=280), folder, 0.2)
    tokenize(corpus, BPETokenizer(vocab_size=280), folder, split_by="tokens")
    tokenize(open_corpus("text", write(tmp_path / "y.txt", VERSE * 201)), BPETokenizer(vocab_size=280), folder)
    assert len(list(folder.glob("*.tokens"))) == count + 4


@pytest.mark.slow
@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_cache_is_made_again(cached, data):
    """A flipped bit, a cut, an addition or zeros anywhere in any cache file: the same ids come out all the same."""
    path = data.draw(st.sampled_from(sorted(cached[1].glob("*.tok*[!k]"))))
    content = bytearray(path.read_bytes())
    at = data.draw(st.integers(0, len(content) - 1))
    kind = data.draw(st.sampled_from(["flip", "cut", "add", "zero", "empty"]))
    if kind == "flip":
        content[at] ^= 1 << data.draw(st.integers(0, 7))
    elif kind == "cut":
        del content[at:]
    elif kind == "add":
        content[at:at] = data.draw(st.binary(min_size=1, max_size=40))
    elif kind == "zero":
        content[at:] = bytes(len(content) - at)
    else:
        content.clear()
    path.write_bytes(content)
    retokenize(cached)


def test_crafted_ids_outside_the_vocabulary_are_not_believed(cached):
    """Even with a right checksum, an id that would index past the embedding is refused."""
    import zlib

    (path,) = cached[1].glob("*.tokens")
    content = bytearray(path.read_bytes()[:-8])
    content[:2] = b"\xff\xff"
    path.write_bytes(content + zlib.crc32(content).to_bytes(8, "little"))
    retokenize(cached)


@pytest.mark.parametrize("footer", [b"[]", b"{}", b"[" * 60000, b'{"key": NaN}', b"\xff", b"null"])
def test_crafted_footer_is_not_believed(cached, footer):
    (path,) = cached[1].glob("*.tokens")
    for length in (len(footer), 2**63, 0):
        path.write_bytes(footer + length.to_bytes(8, "little") + bytes(8))
        retokenize(cached)


def test_leftovers_of_killed_writers_are_removed(cached):
    _, folder, _ = cached
    (tokens,) = folder.glob("*.tokens")
    mine = write(folder / f".{tokens.name}.1-aaaa.partial", "x")
    orphan = write(folder / ".other.tokens.1-bbbb.partial", "x")
    alive = write(folder / ".third.tokens.1-cccc.partial", "x")
    tokens.unlink()
    with cache_folder.locked(folder / "third.tokens"):
        retokenize(cached)
    assert not mine.exists() and not orphan.exists()
    assert alive.exists()


def test_text_that_changes_while_it_is_read(tmp_path):
    path = write(tmp_path / "x.txt", VERSE * 100)
    corpus = open_corpus("text", path)
    write(path, VERSE * 101)
    with pytest.raises(UserError, match="changed"):
        tokenize(corpus, ByteTokenizer(), tmp_path / "c")
    path.unlink()
    with pytest.raises(UserError, match="Cannot read"):
        tokenize(corpus, ByteTokenizer(), tmp_path / "c")
    assert not list((tmp_path / "c").glob("*.tokens"))


def test_cache_folder_that_cannot_be_made(tmp_path):
    corpus = open_corpus("text", write(tmp_path / "x.txt", VERSE))
    with pytest.raises(UserError, match="choose another"):
        tokenize(corpus, ByteTokenizer(), tmp_path / "x.txt" / "cache")


def test_default_cache_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("YINGGEM_CACHE", str(tmp_path / "mine"))
    assert cache_folder.default_cache_dir() == tmp_path / "mine"
    monkeypatch.delenv("YINGGEM_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder.default_cache_dir() == tmp_path / "xdg" / "yinggem"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder.default_cache_dir() == tmp_path / ".cache" / "yinggem"
    monkeypatch.setenv("HOME", str(write(tmp_path / "file", "")))
    fallback = cache_folder.default_cache_dir()
    assert fallback.is_dir() and "yinggem" in fallback.name


# --- processes ------------------------------------------------------------------------------------------------------

RUN = """
import sys, resource
from yinggem.text.corpus import open_corpus
from yinggem.text.files import compression, tinyshakespeare
from yinggem.text.splitting import tokenize
from yinggem.text.encoding import encode_parallel
from yinggem.text.tokenizer import BPETokenizer
if len(sys.argv) > 3:
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]),) * 2)
split = tokenize(open_corpus("text", sys.argv[1]), BPETokenizer(vocab_size=300), sys.argv[2])
print(len(split.train), len(split.val), int(split.train[:].sum(dtype="int64")))
"""


def start(*arguments: object) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", RUN, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )


def test_processes_that_start_together_share_one_file(tmp_path):
    path = write(tmp_path / "x.txt", VERSE * 5000)
    outputs = [process.communicate() for process in [start(path, tmp_path / "c") for _ in range(3)]]
    assert {error for _, error in outputs} == {""}
    assert len({out for out, _ in outputs}) == 1
    names = [file.name for file in (tmp_path / "c").iterdir()]
    assert len([name for name in names if name.endswith(".tokens")]) == 1
    assert not [name for name in names if name.endswith(".partial")]


def test_disk_full_is_one_sentence_and_leaves_nothing(tmp_path):
    path = write(tmp_path / "x.txt", VERSE * 20000)
    _, error = start(path, tmp_path / "c", 100_000).communicate()
    assert "UserError: Cannot write" in error
    assert not list((tmp_path / "c").glob("*.tokens")) and not list((tmp_path / "c").glob(".*.partial"))


@pytest.mark.slow
def test_killed_at_any_moment_the_next_run_is_right(tmp_path):
    path = write(tmp_path / "x.txt", VERSE * 60000)
    began = time.perf_counter()
    expected, _ = start(path, tmp_path / "reference").communicate()
    duration = time.perf_counter() - began
    for round_number in range(sized(6, 12)):
        process = start(path, tmp_path / "c")
        time.sleep(duration * (0.3 + 0.07 * round_number))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        if round_number % 3 == 2:
            out, error = start(path, tmp_path / "c").communicate()
            assert (out, error) == (expected, "")
            assert not list((tmp_path / "c").glob(".*.partial"))
            for file in (tmp_path / "c").iterdir():
                file.unlink()


@pytest.mark.slow
def test_memory_stays_bounded(tmp_path):
    """Ten times the text takes no more memory than a small multiple."""
    # The checksum over the mapped ids would bring the file's pages into this process's memory.
    code = (
        RUN.replace('int(split.train[:].sum(dtype="int64"))', "0")
        + "print([l.split()[1] for l in open('/proc/self/status') if l.startswith('VmHWM')][0])"
    )
    if not Path("/proc/self/status").exists():
        pytest.skip("needs /proc")
    peaks = []
    for megabytes in sized((4, 40), (20, 200)):
        path = write(tmp_path / f"{megabytes}.txt", VERSE * (megabytes * 1_000_000 // len(VERSE)))
        out = subprocess.run(
            [sys.executable, "-c", code, path, tmp_path / "c"], capture_output=True, text=True, check=True, cwd=ROOT
        ).stdout
        peaks.append(int(out.split()[-1]) / 1e3)
    assert peaks[1] < 1.5 * peaks[0] < 300, peaks


def test_cached_tokenizer_is_plain_json(cached):
    (path,) = cached[1].glob("*.tokenizer")
    assert json.loads(path.read_text())["state"]["name"] == "bpe"
