"""A checkpoint is read back as written, or refused in one sentence: never believed, never run."""

import io
import os
import pickle
import random
import resource
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from yinggem.common.errors import UserError
from yinggem.inference.checkpoint import (
    clean_leftovers,
    load_model,
    metadata,
    read_checkpoint,
    save_model,
    write_checkpoint,
)
from yinggem.model.config import ModelConfig
from yinggem.model.transformer import Transformer
from yinggem.runs.resume import step_to_go_on_from
from yinggem.text.tokenizer import BPETokenizer, ByteTokenizer, CharTokenizer, GPT2Tokenizer, Tokenizer


def model_for(tokenizer: Tokenizer, **changes) -> Transformer:
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
    torch.manual_seed(0)
    return Transformer(ModelConfig(tokenizer.vocab_size, **(sizes | {"attention_window": 4} | changes)))


@pytest.fixture
def saved(tmp_path) -> Path:
    tokenizer = ByteTokenizer()
    save_model(tmp_path / "good.ckpt", model_for(tokenizer), tokenizer)
    return tmp_path / "good.ckpt"


def content_of(path: Path) -> dict:
    return torch.load(path, weights_only=True)


Reader = Callable[[Path], object]
READERS: dict[str, Reader] = {"ours": load_model, "torch": read_checkpoint}  # what generates, and what trains


@pytest.fixture(params=READERS)
def reader(request) -> Reader:
    return READERS[request.param]


def assert_refused(path: Path, match: str | None = None, reader: Reader = load_model) -> None:
    with pytest.raises(UserError, match=match) as caught:
        reader(path)
    sentence = str(caught.value)
    assert str(path) in sentence and "\n" not in sentence and ";" in sentence and len(sentence) < 600


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{}, {"tie_word_embeddings": True}, {"bias": False, "qk_norm": True}])
@pytest.mark.parametrize("kind", ["gpt2", "bpe", "char", "byte"])
def test_a_loaded_model_and_tokenizer_are_the_saved_ones(tmp_path, kind, changes):
    text = "To be, or not to be: that is the question.\n" * 20
    kinds: dict[str, Callable[[], Tokenizer]] = {
        "gpt2": GPT2Tokenizer, "bpe": lambda: BPETokenizer(280), "char": CharTokenizer, "byte": ByteTokenizer,
    }  # fmt: skip
    tokenizer = kinds[kind]()
    tokenizer.fit(lambda: [text])
    model = model_for(tokenizer, **changes)
    save_model(tmp_path / "a.ckpt", model, tokenizer)
    loaded, loaded_tokenizer = load_model(tmp_path / "a.ckpt")
    assert loaded.config == model.config and not loaded.training
    assert loaded_tokenizer.fingerprint == tokenizer.fingerprint
    tokens = torch.tensor([tokenizer.encode(text)[:30]])
    assert torch.equal(loaded(tokens), model.eval()(tokens))
    assert all(parameter.requires_grad for parameter in loaded.parameters())
    assert loaded.parameters_count == model.parameters_count


def test_a_loaded_model_survives_its_file(saved):
    """Weights are copied: a memory map of a file that is cut short later would kill the process."""
    model, _ = load_model(saved)
    before = model(torch.tensor([[1, 2]]))
    os.truncate(saved, 10)
    assert torch.equal(model(torch.tensor([[1, 2]])), before)


def test_dtype_and_entries_of_others_are_honoured(saved):
    content = content_of(saved)
    content |= {"optimizer_states": [{"state": {}, "lr": 0.1}], "epoch": 3}
    content["state_dict"]["metric.total"] = torch.tensor(1)
    write_checkpoint(saved, content)
    model, _ = load_model(saved, dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert read_checkpoint(saved)["epoch"] == 3


def test_loading_leaves_the_random_numbers_alone(saved):
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    load_model(saved)
    assert torch.equal(torch.rand(3), expected)


def weights_of(path: Path) -> dict[str, Tensor]:
    model, tokenizer = load_model(path)
    assert tokenizer.name == "byte"
    return model.state_dict()


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_a_flipped_bit_is_refused_or_harmless(saved, seed):
    """150 flips each: anywhere, in the zip headers, in the structure. Never another model, never another error."""
    good, expected, rng = saved.read_bytes(), weights_of(saved), random.Random(seed)
    structure, directory = good.index(b"data.pkl"), good.index(b"PK\x01\x02")
    ranges = [(0, len(good)), (0, 64), (structure, structure + 2000), (directory, len(good))]
    refused = 0
    for flip in range(150):
        low, high = ranges[flip % 4]
        damaged = bytearray(good)
        damaged[rng.randrange(low, high)] ^= 1 << rng.randrange(8)
        saved.write_bytes(damaged)
        try:
            found = weights_of(saved)
        except UserError:
            refused += 1
        else:
            assert found.keys() == expected.keys()
            assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert refused > 60


def test_every_truncation_is_refused(saved, reader):
    good, rng = saved.read_bytes(), random.Random(0)
    for length in [0, 1, 2, 22, len(good) - 1, *(rng.randrange(len(good)) for _ in range(60))]:
        saved.write_bytes(good[:length])
        assert_refused(saved, reader=reader)


def test_a_flipped_weight_alone_is_refused(saved, reader):
    """torch.load takes such a file as it is: the checksum is ours to compare."""
    good = saved.read_bytes()
    weight = content_of(saved)["state_dict"]["model.embedding.weight"].numpy().tobytes()
    damaged = bytearray(good)
    damaged[good.index(weight) + 5] ^= 1
    saved.write_bytes(damaged)
    assert content_of(saved)["state_dict"].keys()
    assert_refused(saved, "damaged", reader)


class Touch:
    """Pickles to a call that leaves a mark."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("place", ["top", "yinggem", "weights", "legacy", "bare"])
def test_a_pickle_that_would_run_code_runs_nothing(saved, place, reader):
    mark, content = saved.parent / "mark", content_of(saved)
    if place == "bare":
        saved.write_bytes(pickle.dumps(Touch(mark)))
    else:
        target = {"yinggem": content["yinggem"], "weights": content["state_dict"]}.get(place, content)
        target["x"] = Touch(mark)
        torch.save(content, saved, _use_new_zipfile_serialization=place != "legacy")
    assert_refused(saved, reader=reader)
    assert not mark.exists()


class Bomb:
    """Pickles to a constructor that weights_only allows and that would allocate a terabyte."""

    def __reduce__(self):
        return torch.FloatTensor, (10**12 // 4,)


class Bytes(Bomb):
    def __reduce__(self):
        return bytearray, (10**12,)


class Claim:
    """Pickles to a tensor of a terabyte that views four bytes."""

    def __init__(self, stride: int) -> None:
        self.stride = stride

    def __reduce__(self):
        storage = torch.storage.TypedStorage(
            wrap_storage=torch.zeros(1).untyped_storage(), dtype=torch.float32, _internal=True
        )
        return torch._utils._rebuild_tensor_v2, (storage, 0, (2**38,), (self.stride,), False, {})


@pytest.mark.parametrize("bomb", [Bomb(), Bytes(), Claim(0), Claim(1)], ids=["tensor", "bytes", "broadcast", "storage"])
def test_a_claim_of_terabytes_allocates_nothing(saved, bomb, reader):
    content = content_of(saved)
    content["state_dict"]["model.embedding.weight"] = bomb
    torch.save(content, saved)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if reader is load_model or not (isinstance(bomb, Claim) and not bomb.stride):  # one number, seen often: harmless
        assert_refused(saved, reader=reader)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 * 1024  # KiB


@pytest.mark.parametrize(
    "changes",
    [
        {"hidden_size": 10**9}, {"num_hidden_layers": -1}, {"num_hidden_layers": 1000}, {"hidden_size": 1 << 20},
        {"vocab_size": 10**6}, {"vocab_size": 255}, {"hidden_size": "16"}, {"hidden_size": None}, {"surprise": 1},
        {"intermediate_size": 25}, {"num_key_value_heads": 1}, {"bias": False}, {"rope_theta": float("nan")},
        {"tie_word_embeddings": True}, {"num_attention_heads": 3}, {"attention_window": 0}, {"qk_norm": 1},
    ],
    ids=str,
)  # fmt: skip
def test_an_architecture_that_is_not_the_weights_is_refused(saved, changes):
    content = content_of(saved)
    content["yinggem"]["model_config"] |= changes
    torch.save(content, saved)
    assert_refused(saved)


def test_weights_that_are_not_the_architecture_are_refused(saved):
    good = content_of(saved)["state_dict"]
    gate, down = good["model.blocks.0.mlp.gate_up.weight"], good["model.blocks.0.mlp.down.weight"]
    for name, value in {
        "model.blocks.0.mlp.gate_up.weight": gate.t().contiguous(),  # as many numbers, another shape
        "model.blocks.0.mlp.down.weight": down.int(),
        "model.norm.weight": "ones",
        "model.head.bias": good["model.head.bias"].to_sparse(),
        "model.embedding.weight": good["model.embedding.weight"].to("meta"),
        "model.blocks.1.mlp.up.weight": down,
    }.items():
        content = content_of(saved)
        content["state_dict"][name] = value
        torch.save(content, saved.with_name("bad.ckpt"))
        assert_refused(saved.with_name("bad.ckpt"))


@pytest.mark.parametrize(
    "content",
    [
        None, [], 3, "text", torch.zeros(3), {}, {"state_dict": {}}, {"yinggem": 1, "state_dict": {}},
        {"yinggem": {}, "state_dict": {}}, {"yinggem": {"format": 1}, "state_dict": {}},
        {"yinggem": {"format": 2}, "state_dict": {}}, {"yinggem": {"format": "1" * 10**6}, "state_dict": {}},
        {"yinggem": {"format": 1, "model_config": {"vocab_size": 10}, "tokenizer": []}, "state_dict": {}},
        {"yinggem": {"format": 1, "model_config": {1: 2}, "tokenizer": {"name": "byte"}}, "state_dict": {}},
        {"state_dict": {"wte.weight": torch.zeros(3)}, "hyper_parameters": {}},
    ],
    ids=range(15),
)  # fmt: skip
def test_files_of_torch_that_are_not_ours_are_refused(tmp_path, content, reader):
    torch.save(content, tmp_path / "other.ckpt")
    if reader is load_model or not is_checkpoint(content):  # for training it may hold another model
        assert_refused(tmp_path / "other.ckpt", reader=reader)


def is_checkpoint(content: object) -> bool:
    """Whether it is one by its entries and its version."""
    entry = content.get("yinggem") if isinstance(content, dict) else None
    return isinstance(entry, dict) and entry.get("format") == 1


def test_files_that_are_no_checkpoint_are_refused(tmp_path, reader):
    zeros, archive = b"\0" * 5000, io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("archive/data.pkl", zeros * 100)
    for data in (b"", b"ROMEO: ay me", zeros, b"PK", b"PK\x03\x04" + zeros, archive.getvalue(), os.urandom(3000)):
        (tmp_path / "x.ckpt").write_bytes(data)
        assert_refused(tmp_path / "x.ckpt", reader=reader)
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "missing.ckpt", tmp_path / "pipe", tmp_path / "x.ckpt" / "y"):
        assert_refused(path, reader=reader)


def test_a_tokenizer_of_another_size_is_refused(saved):
    tokenizer = CharTokenizer()
    tokenizer.fit(lambda: ["abc"])
    content = content_of(saved)
    content["yinggem"] = metadata(ModelConfig(**content["yinggem"]["model_config"]), tokenizer)
    torch.save(content, saved)
    assert_refused(saved, "3 ids")


@pytest.mark.slow
def test_a_full_disk_leaves_the_old_checkpoint(saved):
    """In a process of its own, with a limit on file sizes; torch.save itself fails, not a stand-in."""
    code = f"""
import resource, signal, torch
from yinggem.inference.checkpoint import write_checkpoint
from yinggem.common.errors import UserError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16))
for size in (17_000, 10**6):
    try:
        write_checkpoint({str(saved)!r}, {{"a": torch.zeros(size)}})
    except UserError as error:
        print(error)
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.count("Cannot write") == 2 and "File too large" in out
    assert load_model(saved) and [path.name for path in saved.parent.iterdir()] == ["good.ckpt"]


def test_leftovers_of_dead_writers_alone_are_removed(tmp_path):
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        ended.wait()
    dead, alive = f".a.ckpt.{ended.pid}-01234567.partial", f".a.ckpt.{os.getppid()}-01234567.partial"
    for name in (dead, alive, ".b.partial", "a.ckpt"):
        (tmp_path / name).write_bytes(b"x")
    assert clean_leftovers(tmp_path) == [tmp_path / dead]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([alive, ".b.partial", "a.ckpt"])


@pytest.mark.slow
def test_the_name_of_a_partial_file_is_one_that_is_cleaned(tmp_path):
    """A writer killed inside its write leaves a file that the next start removes."""
    code = f"""
import os, signal
from yinggem.inference.checkpoint import write_atomically
write_atomically({str(tmp_path / "a.ckpt")!r}, lambda file: os.kill(os.getpid(), signal.SIGKILL))
"""
    assert subprocess.run([sys.executable, "-c", code]).returncode == -9
    assert len(list(tmp_path.iterdir())) == 1
    assert len(clean_leftovers(tmp_path)) == 1 and not list(tmp_path.iterdir())


def test_weights_of_mixed_types_and_a_format_that_is_a_tensor_are_refused(tmp_path):
    """The first would fail in the middle of a matrix product, the second where it is compared."""
    model = Transformer(ModelConfig(256, 16, 1, 2, None, 16, 8))
    path = tmp_path / "mixed.ckpt"
    save_model(path, model, ByteTokenizer())
    content = torch.load(path, weights_only=True)
    name = next(iter(content["state_dict"]))
    changed = {**content, "state_dict": content["state_dict"] | {name: content["state_dict"][name].half()}}
    torch.save(changed, path)
    with pytest.raises(UserError, match="several types"):
        load_model(path)
    torch.save({**content, "yinggem": content["yinggem"] | {"format": torch.ones(2)}}, path)
    with pytest.raises(UserError, match="format"):
        load_model(path)


def test_weights_alone_are_not_continued(tmp_path):
    path = tmp_path / "weights.ckpt"
    save_model(path, Transformer(ModelConfig(256, 16, 1, 2, None, 16, 8)), ByteTokenizer())
    with pytest.raises(UserError, match=r"weights.ckpt cannot be continued from.*last.ckpt"):
        step_to_go_on_from(path)
