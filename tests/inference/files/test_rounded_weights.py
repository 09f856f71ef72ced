"""Weights are rounded once, kept for their user alone, believed as checkpoints are, and mean what they would anew."""

import io
import json
import random
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from yinggem.common import verified_files
from yinggem.common.errors import UserError
from yinggem.engine.engine import Engine, engine_refusal
from yinggem.inference.checkpoint import save_model
from yinggem.inference.files import rounded_weights as kept
from yinggem.inference.files.safetensors_file import write_arrays
from yinggem.inference.files.stored_model import PREFIX, StoredModel, engine_weights, read_model
from yinggem.inference.files.weight_digest import digest_of, file_at, keep_digest
from yinggem.inference.networks.opening import open_network
from yinggem.model.config import ModelConfig
from yinggem.model.quantization import quantize
from yinggem.model.transformer import Transformer
from yinggem.text.tokenizer import ByteTokenizer

pytestmark = pytest.mark.skipif(engine_refusal(ModelConfig(1)) is not None, reason="there is no compiled engine")
CONFIG = ModelConfig(256, 64, 2, 2, None, 40)  # 40: a matrix that stays in 8 bits
IDS = np.frombuffer(b"Shall I compare thee to a summer's day?", np.uint8)


def save(path: Path, config: ModelConfig = CONFIG, seed: int = 0) -> Transformer:
    torch.manual_seed(seed)
    model = Transformer(config).eval()
    save_model(path, model, ByteTokenizer())
    return model


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("YINGGEM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "weights"


@pytest.fixture
def stored(tmp_path: Path, cache: Path) -> StoredModel:
    save(tmp_path / "a.ckpt")
    return read_model(tmp_path / "a.ckpt")


def same(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> bool:
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


def only(folder: Path) -> Path:
    (path,) = folder.glob("*.weights")
    return path


def put(path: Path, content: bytes) -> None:
    """Replace a file, as everybody should: one that is mapped must not be cut short."""
    path.unlink()
    path.write_bytes(content)


@pytest.mark.parametrize("kind", ["int8", "int4"])
@pytest.mark.parametrize(
    "changes", [{}, {"tie_word_embeddings": True, "norm": "layer"}, {"hidden_size": 40, "bias": False}], ids=str
)
@pytest.mark.parametrize("name", ["a.ckpt", "a.safetensors"])
def test_they_compute_to_the_bit_what_is_rounded_at_each_start_and_what_a_quantized_file_does(
    tmp_path, cache, kind, changes, name
):
    model = save(tmp_path / name, replace(CONFIG, **changes))
    stored = read_model(tmp_path / name)
    made_anew = Engine(stored.config, engine_weights(stored), storage=kind).score(IDS)
    save_model(tmp_path / "q.ckpt", quantize(model, kind), ByteTokenizer())
    first, second = (open_network(read_model(tmp_path / name), "cpu", kind) for _ in range(2))
    expected = open_network(read_model(tmp_path / "q.ckpt"), "cpu")
    assert first.about == second.about and kind in second.about
    for network in (first, second, expected):
        assert (network.nats(IDS) == made_anew).all()
    assert same(kept.rounded_weights(stored, kind), engine_weights(read_model(tmp_path / "q.ckpt")))
    assert only(cache).stat().st_mode & 0o777 == 0o600


def test_a_file_is_of_one_content_and_one_kind_wherever_it_lies(tmp_path, cache, stored):
    kept.rounded_weights(stored, "int8")
    made = only(cache).stat().st_ino
    (tmp_path / "copy.ckpt").write_bytes((tmp_path / "a.ckpt").read_bytes())
    kept.rounded_weights(read_model(tmp_path / "copy.ckpt"), "int8")
    assert only(cache).stat().st_ino == made
    save(tmp_path / "a.ckpt", seed=1)  # of the same size
    other = read_model(tmp_path / "a.ckpt")
    assert same(kept.rounded_weights(other, "int8"), kept.round_all(other, "int8"))
    kept.rounded_weights(other, "int4")
    assert len([*cache.glob("*.weights")]) == 3


def test_a_damaged_file_is_made_again(cache, stored, caplog):
    expected, draw = kept.rounded_weights(stored, "int4"), random.Random(0)
    content = only(cache).read_bytes()
    damaged = [content[:size] for size in (0, 7, 8, 300, len(content) // 2, len(content) - 1)]
    for _ in range(20):
        flipped = bytearray(content)
        flipped[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
        damaged.append(bytes(flipped))
    for number, bytes_now in enumerate(damaged):
        put(only(cache), bytes_now)
        assert same(kept.rounded_weights(stored, "int4"), expected)
        assert only(cache).read_bytes() == content and caplog.text.count("is damaged and is made again") == number + 1


@pytest.mark.parametrize("lie", ["a shape", "a scale", "a norm", "a type", "a name", "another model"])
def test_a_file_with_a_right_checksum_is_held_against_the_architecture(cache, stored, lie):
    expected = kept.rounded_weights(stored, "int8")
    crafted = dict(expected)
    entry = json.dumps({"made_of": digest_of(stored.weights), "quantization": "int8", "version": kept.VERSION})
    if lie == "a shape":
        crafted["embedding.integers"] = crafted["embedding.integers"][:-1]
    if lie == "a scale":
        crafted["head.scale"] = np.full_like(crafted["head.scale"], np.inf)
    if lie == "a norm":
        crafted["norm.weight"] = np.full_like(crafted["norm.weight"], np.nan)
    if lie == "a type":
        crafted["head.scale"] = crafted["head.scale"].astype(np.float64)
    if lie == "a name":
        crafted["tail.scale"] = crafted.pop("head.scale")
    if lie == "another model":
        crafted["embedding.integers"], entry = 0 * crafted["embedding.integers"], entry.replace('"int8"', '"int4"')
    file = io.BytesIO()
    write_arrays(file, {PREFIX + name: (str(x.dtype), x) for name, x in crafted.items()}, {"yinggem": entry})
    put(only(cache), file.getvalue())
    assert same(kept.rounded_weights(stored, "int8"), expected)


def test_a_second_start_reads_none_of_the_floats_and_who_uses_them_still_compares_them(tmp_path, cache, monkeypatch):
    monkeypatch.setattr(verified_files, "LARGE_BYTES", 0)  # as if it were large
    monkeypatch.setattr(verified_files, "SETTLED_SECONDS", -1.0)
    save(tmp_path / "a.ckpt")
    expected = kept.rounded_weights(read_model(tmp_path / "a.ckpt"), "int8")
    again = read_model(tmp_path / "a.ckpt")
    assert again.digest and same(kept.rounded_weights(again, "int8"), expected)
    assert not any("values" in vars(tensor.storage) for tensor in again.weights.values())
    # Damage that changed neither size nor times, which a note says of a file that was never whole.
    content, floats = bytearray((tmp_path / "a.ckpt").read_bytes()), again.weights["embedding.weight"].bits.tobytes()
    content[content.index(floats) + 5] ^= 1
    (tmp_path / "a.ckpt").write_bytes(content)
    time.sleep(0.01)
    now = file_at(tmp_path / "a.ckpt")
    assert now
    keep_digest(tmp_path / "a.ckpt", now, again.digest)
    assert same(kept.rounded_weights(read_model(tmp_path / "a.ckpt"), "int8"), expected)
    with pytest.raises(UserError, match="damaged"):
        open_network(read_model(tmp_path / "a.ckpt"), "cpu")
    # A file that changed is read from end to end.
    (tmp_path / "a.ckpt").write_bytes(content)
    with pytest.raises(UserError, match="damaged"):
        read_model(tmp_path / "a.ckpt")


def test_what_was_used_longest_ago_goes_first(tmp_path, cache, monkeypatch):
    models = []
    for seed in range(3):
        save(tmp_path / "a.ckpt", seed=seed)
        models.append(read_model(tmp_path / "a.ckpt"))
    kept.rounded_weights(models[0], "int8")
    first = only(cache)
    monkeypatch.setattr(kept, "MOST_BYTES", first.stat().st_size * 2)
    kept.rounded_weights(models[1], "int8")
    (second,) = {*cache.glob("*.weights")} - {first}
    kept.rounded_weights(models[0], "int8")
    kept.rounded_weights(models[2], "int8")
    assert first.exists() and not second.exists() and len([*cache.glob("*.weights")]) == 2


def test_a_cache_that_cannot_be_used_stops_nothing(cache, stored, caplog):
    cache.parent.mkdir()
    cache.write_text("no folder")
    assert same(kept.rounded_weights(stored, "int8"), kept.round_all(stored, "int8"))
    assert "not kept in the cache" in caplog.text and cache.read_text() == "no folder"


def test_weights_that_are_no_numbers_are_refused_and_leave_no_file(tmp_path, cache):
    model = save(tmp_path / "a.ckpt")
    model.get_parameter("blocks.1.mlp.down.weight").data[3, 2] = np.nan
    save_model(tmp_path / "a.ckpt", model, ByteTokenizer())
    with pytest.raises(UserError, match=r"blocks\.1\.mlp\.down\.weight are NaN or infinite"):
        open_network(read_model(tmp_path / "a.ckpt"), "cpu", "int8")
    assert not [*cache.glob("*.weights")]
