"""Shards of tokens: the same ids however they are divided, each made once, each made again on its own."""

import itertools
import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from yinggem.common import verified_files as notes
from yinggem.text.corpus import open_corpus
from yinggem.text.files import text_files
from yinggem.text.splitting import tokenize
from yinggem.text.tokenizer import ByteTokenizer, GPT2Tokenizer
from yinggem.text.tokens import token_cache
from yinggem.text.tokens.token_array import TokenArray
from yinggem.training.loaders import TrainingBatches, WindowLoader

ROOT = Path(__file__).parents[3]
VERSE = "Shall I compare thee to a summer's day?\nThou art more lovely and more temperate:\n\n"
LINES = "".join(f"{k} naïve 🙂 squares make {k * k}.\n" for k in range(400))


@pytest.fixture(scope="module")
def gpt2():
    return GPT2Tokenizer()


@pytest.fixture
def small_shards(monkeypatch):
    """Shards of a few hundred tokens, cut from pieces of 100 characters."""
    monkeypatch.setattr(token_cache, "SHARD_TOKENS", 300)
    monkeypatch.setattr("yinggem.text.bpe.pieces.__defaults__", (100,))


def shards_of(folder: Path) -> dict[str, tuple[int, int]]:
    stats = {path.name: path.stat() for path in sorted(folder.glob("*.tokens"))}
    return {name: (stat.st_ino, stat.st_mtime_ns) for name, stat in stats.items()}


def ids_of(split) -> list[int]:
    return (split.train + split.val)[:].tolist()


# --- the same ids ---------------------------------------------------------------------------------------------------


@given(
    lengths=st.lists(st.integers(0, 9), max_size=6),
    data=st.data(),
)
def test_an_array_in_pieces_is_the_array(lengths, data):
    whole = np.arange(sum(lengths), dtype=np.uint16)
    borders = np.cumsum([0, *lengths])
    array = TokenArray([whole[a:b] for a, b in itertools.pairwise(borders)], whole.dtype)
    start, stop = (data.draw(st.none() | st.integers(-len(whole) - 2, len(whole) + 2)) for _ in range(2))
    assert len(array) == len(whole) and array[start:stop].dtype == np.uint16
    assert array[start:stop].tolist() == whole[start:stop].tolist() == array.part(start, stop)[:].tolist()
    assert (array.part(0, 3) + array.part(3))[:].tolist() == whole.tolist()


@pytest.mark.slow
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    text=st.text(alphabet="ab \n\t'lé🙂1!", min_size=1, max_size=400),
    limit=st.integers(8, 40),
    tokens=st.integers(1, 60),
    split_by=st.sampled_from(["characters", "tokens"]),
    fraction=st.sampled_from([0, 0.1, 0.5]),
)
def test_ids_do_not_depend_on_the_shards(gpt2, tmp_path_factory, text, limit, tokens, split_by, fraction):
    folder = tmp_path_factory.mktemp("shards")
    (folder / "x.txt").write_text(text)
    corpus = open_corpus("text", folder / "x.txt", folder)
    cut = int(len(text) * (1 - fraction))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("yinggem.text.bpe.pieces.__defaults__", (limit,))
        patch.setattr(token_cache, "SHARD_TOKENS", tokens)
        split = tokenize(corpus, gpt2, folder, fraction, split_by)
        if split_by == "characters":
            assert split.train[:].tolist() == gpt2.encode(text[:cut])
            assert split.val[:].tolist() == gpt2.encode(text[cut:])
        whole = ids_of(split)
        if split_by == "tokens":
            assert whole == gpt2.encode(text) and len(split.train) == int(len(whole) * (1 - fraction))
        random.Random(text).choice(sorted(folder.glob("*.tokens"))).unlink()
        assert ids_of(tokenize(corpus, gpt2, folder, fraction, split_by)) == whole


def test_windows_cross_the_borders_and_ranks_share_them(tmp_path, small_shards):
    """Windows of all shards in one order: two ranks' are disjoint and together everything, each as the whole says."""
    (tmp_path / "x.txt").write_text(LINES)
    split = tokenize(open_corpus("text", tmp_path / "x.txt", tmp_path), ByteTokenizer(), tmp_path)
    assert len(split.train.pieces) > 20
    whole = np.frombuffer(LINES[: int(len(LINES) * 0.9)].encode(), np.uint8)
    assert split.train[:].tolist() == whole.tolist()
    length = 128
    starts: tuple[set[int], set[int]] = set(), set()
    for rank in (0, 1):
        batches = TrainingBatches(len(whole), length, 1, seed=5, rank=rank, ranks=2)
        for [(start, _)], (inputs, targets) in zip(batches, WindowLoader(split.train, batches), strict=True):
            assert inputs[0].tolist() == whole[start : start + length].tolist()
            assert targets[0].tolist() == whole[start + 1 : start + length + 1].tolist()
            starts[rank].add(start)
    everything = sorted(starts[0] | starts[1])
    assert len(everything) == (len(whole) - 1) // length
    assert len(starts[0] & starts[1]) <= 1  # an odd number of windows: the last batch takes the epoch's first again
    assert min(np.diff(everything)) >= 1 and max(np.diff(everything)) <= length


# --- each made once, each made again on its own -----------------------------------------------------------------------


@pytest.fixture
def sharded(tmp_path, small_shards, gpt2):
    (tmp_path / "x.txt").write_text(LINES)
    corpus, folder = open_corpus("text", tmp_path / "x.txt", tmp_path), tmp_path / "cache"
    expected = ids_of(tokenize(corpus, gpt2, folder))
    assert len(shards_of(folder)) > 10
    return corpus, folder, expected


@pytest.mark.slow
@pytest.mark.parametrize("places", [[0], [3], [-1], [2, 7], [4, 5, 6], range(10)])
@pytest.mark.parametrize("harm", ["flip", "cut", "remove"])
def test_only_what_is_damaged_is_made_again(sharded, gpt2, places, harm):
    corpus, folder, expected = sharded
    before = shards_of(folder)
    victims = [sorted(before)[place] for place in places]
    for name in victims:
        content = bytearray((folder / name).read_bytes())
        content[len(content) // 3] ^= 1
        if harm == "remove":
            (folder / name).unlink()
        else:
            (folder / name).write_bytes(content if harm == "flip" else content[:-1])
    assert ids_of(tokenize(corpus, gpt2, folder)) == expected
    after = shards_of(folder)
    assert {name for name in before if before[name] != after[name]} == set(victims) and before.keys() == after.keys()


def test_a_shard_of_another_place_or_text_is_not_believed(sharded, gpt2):
    corpus, folder, expected = sharded
    first, second, third = sorted(folder.glob("*.tokens"))[:3]
    first.write_bytes(second.read_bytes())
    third.with_name(third.name.replace(".tokens", "x.tokens")).write_bytes(b"no number in the name")
    assert ids_of(tokenize(corpus, gpt2, folder)) == expected


RUN = """
import sys
from yinggem.text import bpe
from yinggem.text.tokens import token_cache
from yinggem.text.corpus import open_corpus
from yinggem.text.files import text_files
from yinggem.text.files import text_files
from yinggem.text.splitting import tokenize
from yinggem.text.tokenizer import GPT2Tokenizer
token_cache.SHARD_TOKENS = int(sys.argv[3])
split = tokenize(open_corpus("text", sys.argv[1], sys.argv[2]), GPT2Tokenizer(), sys.argv[2])
print(len(split.train), len(split.val), hash((split.train + split.val)[:].tobytes()))
"""


def start(*arguments: object) -> subprocess.Popen:
    command = [sys.executable, "-c", RUN, *map(str, arguments)]
    environment = os.environ | {"PYTHONHASHSEED": "0"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT,
                            env=environment)  # fmt: skip


@pytest.mark.slow
def test_a_killed_tokenization_goes_on_from_the_finished_shards(tmp_path):
    (tmp_path / "x.txt").write_text(VERSE * 60_000)
    folder, shard = tmp_path / "cache", 1 << 16
    process, deadline = start(tmp_path / "x.txt", folder, shard), time.monotonic() + 60
    while len(shards_of(folder)) < 3 and time.monotonic() < deadline:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    finished = shards_of(folder)
    assert 3 <= len(finished) < 19, "killed in the middle"
    out, error = start(tmp_path / "x.txt", folder, shard).communicate()
    after = shards_of(folder)
    assert {name: after[name] for name in finished} == finished and len(after) > len(finished)
    assert not list(folder.glob(".*.partial"))
    straight = start(tmp_path / "x.txt", tmp_path / "straight", 1 << 30).communicate()
    assert (out, error) == straight and len(shards_of(tmp_path / "straight")) == 1


# --- large files are read once ----------------------------------------------------------------------------------------


@pytest.fixture
def all_is_large(monkeypatch):
    monkeypatch.setattr(notes, "LARGE_BYTES", 1)
    monkeypatch.setattr(notes, "SETTLED_SECONDS", 0)


def test_what_was_read_is_remembered_until_the_text_changes(tmp_path, all_is_large):
    path, cache = tmp_path / "x.txt", tmp_path / "cache"
    path.write_text(VERSE)
    corpus = open_corpus("text", path, cache)
    (note,) = cache.glob("*.text")
    again = open_corpus("text", path, cache)
    assert (again.characters, again.fingerprint) == (corpus.characters, corpus.fingerprint) and again == corpus
    known = json.loads(note.read_bytes())["value"] | {"fingerprint": "as noted"}
    notes.remember(note, text_files.state_of_files([path]), known)
    assert open_corpus("text", path, cache).fingerprint == "as noted"  # so it is the note that is read
    times = path.stat()
    path.write_text(VERSE.swapcase())  # as long as before, and dated back
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert open_corpus("text", path, cache).fingerprint not in ("as noted", corpus.fingerprint)


@pytest.mark.parametrize("content", [b"", b"{}", b"[1]", b"\xff", b'{"value": [9, "x"], "digest": "0"}', b"[" * 9999])
def test_a_damaged_note_is_not_believed(tmp_path, all_is_large, content):
    (tmp_path / "x.txt").write_text(VERSE)
    corpus = open_corpus("text", tmp_path / "x.txt", tmp_path)
    (note,) = tmp_path.glob("*.text")
    note.write_bytes(content)
    assert open_corpus("text", tmp_path / "x.txt", tmp_path) == corpus


def test_a_note_is_believed_for_a_week(tmp_path, all_is_large):
    states = notes.Files.of([notes.state_of(tmp_path)])
    notes.remember(tmp_path / "note", states, "value")
    assert notes.recall(tmp_path / "note", states) == "value"
    for days, expected in ((6, "value"), (8, None), (-1, None)):
        os.utime(tmp_path / "note", (time.time() - days * 86400,) * 2)
        assert notes.recall(tmp_path / "note", states) == expected


def test_verified_shards_that_change_are_verified_again(sharded, gpt2, all_is_large):
    corpus, folder, expected = sharded
    for _ in range(2):
        assert ids_of(tokenize(corpus, gpt2, folder)) == expected
    assert list(folder.glob("*.verified"))
    victim = sorted(folder.glob("*.tokens"))[4]
    content = bytearray(victim.read_bytes())
    content[10] ^= 1
    victim.write_bytes(content)
    assert ids_of(tokenize(corpus, gpt2, folder)) == expected


# --- larger than memory -----------------------------------------------------------------------------------------------


@pytest.mark.skipif(not os.environ.get("YINGGEM_LARGE_TEST"), reason="2 GB of text, minutes: YINGGEM_LARGE_TEST=1")
def test_two_gigabytes(tmp_path):
    """Tokenized under a limit on memory far below the text, killed once on the way, every shard read back."""
    text, size = "".join(f"{VERSE}{k * 7919} is the number of this verse.\n" for k in range(20_000)), 0
    with open(tmp_path / "x.txt", "w") as file:
        while size < 2_000_000_000:
            size += file.write(text)
    code = RUN.replace("hash((split.train + split.val)[:].tobytes())", "0").replace("int(sys.argv[3])", "1 << 25")
    code += "print([l.split()[1] for l in open('/proc/self/status') if l.startswith('VmHWM')][0])"
    command = [sys.executable, "-c", code, tmp_path / "x.txt", tmp_path / "cache"]
    began = time.monotonic()
    process = subprocess.Popen(command, cwd=ROOT)
    while len(shards_of(tmp_path / "cache")) < 5:
        time.sleep(0.5)
    process.kill()
    process.wait()
    finished = shards_of(tmp_path / "cache")
    peaks, seconds = [], [time.monotonic() - began]
    for _ in range(3):  # the rest; verified and remembered; from memory
        began = time.monotonic()
        out = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout
        seconds.append(time.monotonic() - began)
        peaks.append(int(out.split()[-1]) / 1e6)
    assert shards_of(tmp_path / "cache").items() >= finished.items()
    split = tokenize(open_corpus("text", tmp_path / "x.txt", tmp_path / "cache"), GPT2Tokenizer(), tmp_path / "cache")
    sample = GPT2Tokenizer().encode(text[: 1 << 20])[:100_000]
    assert split.train[:100_000].tolist() == sample
    print(f"\n{size / 1e9:.2f} GB, {len(shards_of(tmp_path / 'cache'))} shards, "
          f"{len(split.train) + len(split.val):,} tokens; seconds until the kill, to the end, verified, remembered: "
          f"{', '.join(f'{s:.1f}' for s in seconds)}; peak {max(peaks):.2f} GB of memory")  # fmt: skip
    assert max(peaks) < 1.5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6 < 4
