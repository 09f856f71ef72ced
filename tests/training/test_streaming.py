"""Token shards for litdata, and windows streamed from them."""

import functools
import json
import os
import shutil
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("litdata", reason="the extra streaming: pip install litdata")

from running import SMALL, here, same

from yinggem.commands import shard
from yinggem.common.command_line import run
from yinggem.common.errors import UserError
from yinggem.inference.files.stored_model import read_model
from yinggem.memory.mixture import fixed
from yinggem.memory.ngram_memory import mixed
from yinggem.runs.overrides import quote_path
from yinggem.text.corpus import open_corpus
from yinggem.text.splitting import tokenize
from yinggem.text.tokenizer import BPETokenizer, ByteTokenizer
from yinggem.text.tokens.token_array import TokenArray
from yinggem.text.tokens.token_shards import BLOCK, open_shards, read_validation
from yinggem.training.loaders import EvaluationBatches, WindowLoader
from yinggem.training.streaming import StreamingDataModule

TEXT = "".join(f"{k} times {k} is {k * k}, and half of it {k * k / 2}.\n" for k in range(2500))
LENGTH, BATCH = 32, 4


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The folder that the command makes of TEXT: 512 windows in a chunk, ids as UTF-8 bytes."""
    folder = tmp_path_factory.mktemp("shards")
    (folder / "text.txt").write_text(TEXT)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("YINGGEM_CACHE", str(folder / "cache"))
        options = ["--data", str(folder / "text.txt"), "--tokenizer", "byte", "--chunk-tokens", "16384"]
        assert run(lambda: shard.main([*options, "--output", str(folder / "made")])) == 0
    return folder / "made"


@pytest.fixture
def shards(made, tmp_path):
    """A copy to be harmed."""
    return Path(shutil.copytree(made, tmp_path / "shards"))


def module(folder, **options) -> StreamingDataModule:
    ours: dict[str, Any] = {"context_length": LENGTH, "batch_size": BATCH, "seed": 3, "cache_dir": f"{folder}-cache"}
    return StreamingDataModule(BPETokenizer(300), str(folder), **(ours | options))


def validation_of(data: StreamingDataModule) -> TokenArray:
    assert data.split is not None
    return data.split.val


def rows_of(loader) -> list[list[int]]:
    """Every window with its last target."""
    return [row for inputs, targets in loader for row in torch.cat([inputs, targets[:, -1:]], dim=1).tolist()]


# --- the shards -----------------------------------------------------------------------------------------------------


def test_shards_hold_the_text_and_its_tokenizer(made):
    found = open_shards(str(made), made.parent)
    assert found.tokenizer.state_dict() == ByteTokenizer().state_dict()
    assert json.loads((made / "tokenizer.json").read_text())["state"]["name"] == "byte"
    val = read_validation(found.val, 256)[:]
    assert len(val) == int(len(TEXT) * 0.1) // BLOCK * BLOCK and len(found.train.chunks) > 5
    assert bytes(val.tolist()) == TEXT.encode()[-len(val) :]
    assert found.train.windows(1) == len(TEXT) - len(val)


@pytest.mark.parametrize("make", [ByteTokenizer, functools.partial(BPETokenizer, 300)])
def test_every_window_of_the_training_part_comes_once_an_epoch(tmp_path, make):
    (tmp_path / "x.txt").write_text(TEXT)
    tokenizer = make()
    split = tokenize(open_corpus("text", tmp_path / "x.txt", tmp_path), tokenizer, tmp_path, split_by="tokens")
    shard.write_shards(tmp_path / "out", split, tokenizer, 8 * BLOCK)
    data = module(tmp_path / "out", batch_size=1)
    loader = data.train_dataloader()
    whole = (split.train + split.val)[:].tolist()
    train = whole[: len(whole) - len(validation_of(data))]
    blocks = []
    for start in range(0, len(train), 8 * BLOCK):  # a chunk gives its whole blocks
        chunk = train[start : start + 8 * BLOCK]
        blocks += [tuple(chunk[i : i + LENGTH + 1]) for i in range(0, len(chunk) - LENGTH, LENGTH + 1)]
    orders = []
    for epoch in range(2):
        loader.set_epoch(epoch)
        orders.append([tuple(row) for row in rows_of(loader)])
        assert sorted(orders[-1]) == sorted(blocks) and len(loader) == len(blocks) == data.train_windows
    assert orders[0] != orders[1] and orders[0] != blocks


def test_what_is_held_out_for_a_memory_is_the_end_of_the_text_and_in_no_window(made):
    data, whole = module(made, batch_size=4), module(made, batch_size=4)
    data.hold_out(2000)
    text = data.training_text()
    assert bytes(text.tolist()) == TEXT.encode()[: len(text)] and data.train_tokens == len(text) - 2000
    windows = [tuple(row) for row in rows_of(data.train_dataloader())]
    everything = [tuple(row) for row in rows_of(whole.train_dataloader())]
    left_out, end = {*everything} - {*windows}, TEXT.encode()[len(text) - 2000 - LENGTH : len(text)]
    assert {*windows} <= {*everything} and len(windows) == data.train_windows > 3000
    assert len(left_out) >= 2000 // (LENGTH + 1) and all(bytes(row) in end for row in left_out)
    data.hold_out(1 << 14)  # as long as a chunk
    assert data.held_out == 0


def test_a_memory_of_shards_wants_them_on_a_disk(made, tmp_path, monkeypatch):
    there = module(f"local:{made}", cache_dir=str(tmp_path / "cache"))
    with pytest.raises(UserError, match=r"memory=none"):
        there.training_text()
    monkeypatch.setattr("yinggem.training.streaming.COUNTED_TOKENS", 5000)
    part, whole = (open_shards(str(made), tmp_path).train.windows(1), module(made).training_text())
    assert len(whole) == 5000 and bytes(whole.tolist()) == TEXT.encode()[part - 5000 : part]


def test_the_validation_part_is_evaluated_exactly(made):
    data = module(made)
    data.setup()
    val = validation_of(data)
    seen = np.zeros(len(val), np.int64)
    for inputs, targets in data.val_dataloader():
        assert targets.shape == inputs.shape
    for rank in (0, 1):
        shares = EvaluationBatches(len(val), LENGTH, 3, rank, 2)
        for windows, (_, targets) in zip(shares, WindowLoader(val, shares), strict=True):
            for (start, length), row in zip(windows, targets.tolist(), strict=True):
                seen[start + 1 : start + length + 1] += 1
                assert bytes(row) == bytes(val[start + 1 : start + length + 1].tolist())
    assert seen[0] == 0 and (seen[1:] == 1).all()


# --- continuing -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_continues_after_any_batch(made, tmp_path, workers):
    def loader(folder=made):
        return module(folder, num_workers=workers, batch_size=64).train_dataloader()

    straight = loader()
    epochs = []
    for epoch in (0, 1):
        straight.set_epoch(epoch)
        epochs.append([inputs.clone() for inputs, _ in straight])
    assert not torch.equal(epochs[0][0], epochs[1][0]) and len(straight) == len(epochs[0]) > 20
    moved = shutil.copytree(made, tmp_path / "moved")
    for stop in (1, 2, 7, len(straight) - 1, len(straight)):
        first, second = loader(), loader(moved)
        first.set_epoch(1)
        iterator = iter(first)
        for _ in range(stop):
            next(iterator)
        state = torch.load(saved(first.state_dict(), tmp_path / "state"), weights_only=True)
        second.load_state_dict(state)
        iterator = iter(second)
        second.set_epoch(1)  # as Lightning does, after it asked for the iterator
        rest = [inputs for inputs, _ in iterator]
        assert len(rest) == len(straight) - stop
        assert all(torch.equal(a, b) for a, b in zip(rest, epochs[1][stop:], strict=True))
        assert second.state_dict()["windows"] == len(straight) * 64
        second.set_epoch(0)
        assert torch.equal(next(iter(second))[0], epochs[0][0])


@pytest.mark.filterwarnings("ignore:With the new data.batch_size")
@pytest.mark.parametrize("size", [16, 48, 128])
def test_batches_of_another_size_leave_out_no_window_and_repeat_less_than_a_batch(made, tmp_path, size):
    first, second = (module(made, batch_size=count).train_dataloader() for count in (64, size))
    iterator = iter(first)
    seen = [tuple(row) for _ in range(7) for row in next(iterator)[0].tolist()]
    second.load_state_dict(torch.load(saved(first.state_dict(), tmp_path / "state"), weights_only=True))
    assert second.batches_done == 7 * 64 // size
    rest = [tuple(row) for inputs, _ in second for row in inputs.tolist()]
    whole = {tuple(row) for inputs, _ in module(made, batch_size=1).train_dataloader() for row in inputs.tolist()}
    assert len(seen + rest) - len({*seen, *rest}) == 7 * 64 % size
    assert {*seen, *rest} <= whole and len(whole) - len({*seen, *rest}) < 64 + size, "all but the parts of a batch"


def saved(state, path):
    torch.save(state, path)
    return path


STREAM = ["data=streaming", "data.batch_size=4", "data.context_length=32", "trainer.limit_val_batches=3"]


@pytest.mark.slow
def test_a_run_continued_in_the_middle_ends_with_the_bits_of_a_straight_one(made, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = [*SMALL, *STREAM, f"data.path={made}", "data.batch_size=256", "model.dropout=0.1", "scheduler=constant"]
    options += ["memory=ngram", "memory.held_out=0.01", "baseline=true", "trainer.val_check_interval=3"]
    runs = {}
    for name, limits in {"straight": [14], "stopped": [6, 14]}.items():  # an epoch is 8 steps
        folder = tmp_path / name / "run"
        done = here(*options, f"hydra.run.dir={folder}", f"outputs={name}", f"trainer.max_steps={limits[0]}")
        assert done.status == 0, done
        assert "tokens to train on" in done.out and not done.err.strip().count("\n"), done.err
        for limit in limits[1:]:
            done = here(f"ckpt_path={folder}/checkpoints/last.ckpt", f"trainer.max_steps={limit}")
            assert done.status == 0, done
        runs[name] = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    one, other = runs.values()
    assert one["global_step"] == other["global_step"] == 14
    assert same(one["state_dict"], other["state_dict"]) and same(one["memory"], other["memory"])
    memory = read_model(folder / "checkpoints" / "last.ckpt").memory
    assert memory is not None and bytes(memory.ids) == TEXT.encode()[: len(memory.ids)]
    assert memory.scoring.to_dict() != fixed(*mixed(256)).to_dict() and "both together" in done.out


# --- several devices ------------------------------------------------------------------------------------------------


def test_ranks_share_the_windows(made, monkeypatch):
    """Ranks' windows are disjoint, of equal number, and together all but less than a batch for each."""
    everything = {bytes(row) for row in rows_of(module(made, batch_size=1).train_dataloader())}
    monkeypatch.setenv("WORLD_SIZE", "2")
    shares, validation = [], []
    for rank in range(2):
        monkeypatch.setenv("GLOBAL_RANK", str(rank))
        data = module(made)
        shares.append([bytes(row) for row in rows_of(data.train_dataloader())])
        validation.append(validation_of(data)[:].tolist())
    one, other = map(set, shares)
    assert len(one) == len(other) == len(shares[0]) == len(shares[1]) and validation[0] == validation[1]
    assert not one & other and one | other <= everything and len(everything - one - other) < 2 * BATCH * 2


@pytest.mark.parametrize("ranks", [(2, 1), (1, 2)])
def test_ranks_continue_what_another_number_of_ranks_began(made, monkeypatch, ranks):
    """With the same global batch, no window comes twice and next to none is left out."""
    everything = {bytes(row) for row in rows_of(module(made, batch_size=1).train_dataloader())}
    seen: list[list[int]] = []
    states: list[dict[str, Any]] = []
    for part, count in enumerate(ranks):
        monkeypatch.setenv("WORLD_SIZE", str(count))
        for rank in range(count):
            monkeypatch.setenv("GLOBAL_RANK", str(rank))
            loader = module(made, batch_size=8 // count).train_dataloader()
            if part:
                loader.load_state_dict(states[0])
                seen += rows_of(loader)
                continue
            iterator = iter(loader)
            for _ in range(20):
                seen += rows_of([next(iterator)])
            states.append(loader.state_dict())
    assert len({bytes(row) for row in seen}) == len(seen)
    assert len(everything) - len(seen) < 32


# --- from a URL -----------------------------------------------------------------------------------------------------


def test_a_url_is_read_through_the_cache(made, tmp_path):
    """litdata's local: URL takes the way of s3://, with a copy in place of the network."""
    here_, there = module(made), module(f"local:{made}", cache_dir=str(tmp_path / "cache"))
    assert rows_of(here_.train_dataloader()) == rows_of(there.train_dataloader())
    assert validation_of(here_)[:].tolist() == validation_of(there)[:].tolist()
    assert there.tokenizer.name == "byte" and list((tmp_path / "cache" / "streaming").rglob("chunk-*.bin"))
    assert quote_path("data.path=s3://bucket/shards") == "data.path='s3://bucket/shards'"
    with pytest.raises(UserError, match="Cannot fetch local:"):
        module(f"local:{tmp_path}/nowhere", cache_dir=str(tmp_path / "cache")).setup()


# --- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("harm", "sentence"),
    [
        (lambda at: shutil.rmtree(at), "is not a folder"),
        (lambda at: shutil.rmtree(at / "train"), "index.json is missing"),
        (lambda at: (at / "tokenizer.json").unlink(), "tokenizer.json is missing"),
        (
            lambda at: (at / "tokenizer.json").write_text('{"fingerprint": "0", "state": {}}'),
            "tokenizer.json is damaged",
        ),
        (lambda at: (at / "checksums.json").write_text("[]"), "checksums.json is damaged"),
        (lambda at: (at / "val" / "index.json").write_text("[" * 9999), "val/index.json is damaged"),
        (lambda at: (at / "val" / "index.json").write_text('{"chunks": [], "config": {}}'), "index.json is damaged"),
        (lambda at: (at / "train" / "chunk-0-1.bin").unlink(), "train/chunk-0-1.bin is missing"),
        (lambda at: os.truncate(at / "val" / "chunk-0-0.bin", 100), "val/chunk-0-0.bin is damaged"),
        (lambda at: flip(at / "train" / "chunk-0-2.bin"), "train/chunk-0-2.bin is damaged"),
        (lambda at: edit(at / "train" / "index.json", '"dim": 16384', '"dim": 16385'), "does not hold tokens"),
        (lambda at: edit(at / "train" / "index.json", '"TokensLoader"', '"PyTreeLoader"'), "does not hold tokens"),
        (lambda at: edit(at / "val" / "index.json", "chunk-0-0", "../train/chunk-0-0"), "does not hold tokens"),
        (lambda at: edit(at / "val" / "index.json", "no_header_numpy:5", "no_header_numpy:1"), "index.json is damaged"),
    ],
)
def test_a_missing_foreign_or_damaged_folder_is_one_sentence(shards, harm, sentence):
    harm(shards)
    with pytest.raises(UserError, match=sentence) as caught:
        module(shards).setup()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("part", "harm", "sentence"),
    [
        ("val", lambda at: beyond(at / "val" / "chunk-0-0.bin"), "id 65535 is outside the vocabulary of 256"),
        ("train", lambda at: beyond(at / "train" / "chunk-0-3.bin"), "id 65535 is outside the vocabulary of 256"),
        ("val", lambda at: edit(at / "val" / "index.json", "numpy:5", "numpy:1"), "ids are int16"),
    ],
)
def test_crafted_ids_are_refused_though_their_checksums_are_right(shards, part, harm, sentence):
    harm(shards)
    checksums = {str(path.relative_to(shards)): zlib.crc32(path.read_bytes()) for path in shards.glob("*/*")}
    (shards / "checksums.json").write_text(json.dumps(checksums))
    with pytest.raises(UserError, match=sentence):
        data = module(shards)
        data.setup()
        assert part == "train"
        rows_of(data.train_dataloader())


def edit(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def beyond(path):
    path.write_bytes(path.read_bytes()[:-64] + b"\xff" * 64)


def flip(path):
    content = bytearray(path.read_bytes())
    content[-1000] ^= 1
    path.write_bytes(content)


def test_too_few_windows_are_refused(made):
    with pytest.raises(UserError, match="fewer than a batch of 4096"):
        module(made, batch_size=4096).setup()
    with pytest.raises(UserError, match=r"data\.path=FOLDER"):
        StreamingDataModule(ByteTokenizer()).setup()


def test_the_command_refuses_in_one_sentence(made, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("YINGGEM_CACHE", str(tmp_path))
    (tmp_path / "short.txt").write_text("To be, or not to be")
    (tmp_path / "long.txt").write_text(TEXT)
    for options in (
        ["--data", str(tmp_path / "short.txt"), "--output", str(tmp_path / "a")],
        ["--data", str(tmp_path / "missing.txt"), "--output", str(tmp_path / "a")],
        ["--data", str(tmp_path / "long.txt"), "--val-fraction", "0", "--output", str(tmp_path / "a")],
        ["--data", str(tmp_path / "long.txt"), "--tokenizer", "byte", "--output", str(made)],
        ["--data", str(tmp_path / "long.txt"), "--tokenizer", "byte", "--output", str(tmp_path / "long.txt" / "a")],
        ["--data", str(tmp_path / "long.txt"), "--tokenizer", "byte", "--vocab-size", "300", "--output", "a"],
    ):
        assert run(functools.partial(shard.main, options)) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ") and error.count("\n") == 1
    assert not (tmp_path / "a").exists() and not list(tmp_path.glob(".*.partial"))
