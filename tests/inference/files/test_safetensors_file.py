"""A checkpoint as safetensors is the same checkpoint, read with the same distrust, and others read the file too."""

import json
import os
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from yinggem.common.errors import UserError
from yinggem.inference.checkpoint import load_model, read_checkpoint, save_model
from yinggem.inference.files.safetensors_file import write_safetensors
from yinggem.inference.files.stored_model import read_model
from yinggem.memory.ngram_memory import NgramMemory
from yinggem.model.config import ModelConfig
from yinggem.model.quantization import quantization_of, quantize
from yinggem.model.transformer import Transformer
from yinggem.text.tokenizer import BPETokenizer, ByteTokenizer, CharTokenizer, GPT2Tokenizer, Tokenizer

TEXT = "To be, or not to be: that is the question.\n" * 20


def model_for(tokenizer: Tokenizer, **changes) -> Transformer:
    torch.manual_seed(0)
    return Transformer(ModelConfig(tokenizer.vocab_size, 32, 2, 2, None, 32, 4, **changes)).eval()


@pytest.fixture
def saved(tmp_path) -> Path:
    save_model(tmp_path / "good.safetensors", model_for(ByteTokenizer()), ByteTokenizer(), context_length=9)
    return tmp_path / "good.safetensors"


@pytest.mark.parametrize(
    ("tokenizer", "kind"),
    [(GPT2Tokenizer(), None), (BPETokenizer(280), "int8"), (CharTokenizer(), "int4"), (ByteTokenizer(), None)],
    ids=["gpt2", "bpe", "char", "byte"],
)
def test_what_is_read_is_what_was_written(tmp_path, tokenizer, kind):
    tokenizer.fit(lambda: [TEXT])
    model = model_for(tokenizer, tie_word_embeddings=tokenizer.name == "byte")
    memory = NgramMemory(tokenizer.encode_array(TEXT), tokenizer.vocab_size)
    if kind:
        quantize(model, kind)
    save_model(tmp_path / "a.safetensors", model, tokenizer, memory, context_length=32)
    (tmp_path / "a.safetensors").rename(tmp_path / "renamed.ckpt")  # it is read by what is in it
    stored = read_model(tmp_path / "renamed.ckpt")
    (loaded, found), kept = load_model(tmp_path / "renamed.ckpt", stored=stored), stored.memory
    content = read_checkpoint(tmp_path / "renamed.ckpt")
    assert content.keys() == stored.content.keys()
    assert loaded.config == model.config and found.fingerprint == tokenizer.fingerprint
    assert quantization_of(loaded) == kind and content["yinggem"]["context_length"] == 32
    tokens = torch.tensor([tokenizer.encode(TEXT)[:30]])
    with torch.inference_mode():
        assert torch.equal(loaded(tokens), model(tokens))
    assert kept is not None and np.array_equal(kept.ids, memory.ids)
    assert kept.to_dict() == memory.to_dict()


def test_other_software_reads_it_and_the_architecture_beside_it(saved):
    model, _ = load_model(saved)
    tensors = load_file(saved)
    assert tensors.keys() == {f"model.{name}" for name in model.state_dict()}
    assert all(torch.equal(tensors[f"model.{name}"], value) for name, value in model.state_dict().items())
    with safe_open(saved, "pt") as file:
        assert json.loads(file.metadata()["yinggem"])["model_config"] == model.config.to_dict()


def test_a_loaded_model_survives_its_file(saved):
    model, _ = load_model(saved)
    before = model(torch.tensor([[1, 2]]))
    os.truncate(saved, 10)
    assert torch.equal(model(torch.tensor([[1, 2]])), before)


def test_a_flipped_bit_or_a_missing_end_is_refused_or_harmless(saved):
    good, rng = saved.read_bytes(), random.Random(0)
    expected, refused = load_model(saved)[0].state_dict(), 0
    header = int.from_bytes(good[:8], "little") + 8
    for flip in range(90):
        damaged = bytearray(good)
        damaged[rng.randrange(*[(0, 16), (8, header), (header, len(good))][flip % 3])] ^= 1 << rng.randrange(8)
        saved.write_bytes(damaged if flip % 10 else good[: rng.randrange(len(good))])
        try:
            found = load_model(saved)[0]
        except UserError:
            refused += 1
        else:
            assert found.config.to_dict() == model_for(ByteTokenizer()).config.to_dict()
            assert all(torch.equal(found.state_dict()[name], expected[name]) for name in expected)
    assert refused > 70


def with_header(path: Path, change) -> None:
    """Rewrite the header and leave the numbers."""
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.dumps(change(json.loads(content[8 : 8 + length]))).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + content[8 + length :])


LYING = {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 1 << 42]}


@pytest.mark.parametrize(
    "change",
    [
        lambda header: {"__metadata__": header["__metadata__"]},
        lambda header: header | {"model.norm.weight": LYING},
        lambda header: header | {"__metadata__": {"format": "pt"}},
        lambda header: header | {"__metadata__": header["__metadata__"] | {"yinggem": "[" * 100_000}},
        lambda header: header | {"__metadata__": header["__metadata__"] | {"checksum": "00000000"}},
        lambda header: header | {"__metadata__": []},
        lambda header: [],
    ],
    ids=["no tensors", "terabytes", "not ours", "deep", "checksum", "list", "no header"],
)
def test_headers_that_lie_are_refused(saved, change):
    with_header(saved, change)
    with pytest.raises(UserError, match=r"good\.safetensors .*; use another one"):
        load_model(saved)


def test_weights_that_are_not_the_architecture_are_refused(saved):
    """With a checksum that fits: the same checks as of every other checkpoint."""
    content = read_checkpoint(saved)
    for change in ({"hidden_size": 64}, {"num_hidden_layers": 1000}, {"vocab_size": 10}, {"bias": False}):
        config = content["yinggem"]["model_config"] | change
        write_safetensors(saved, content | {"yinggem": content["yinggem"] | {"model_config": config}})
        with pytest.raises(UserError, match=r"good\.safetensors"):
            load_model(saved)


def test_a_file_of_others_is_refused(tmp_path):
    save_file({"wte.weight": torch.zeros(3)}, tmp_path / "other.safetensors")
    with pytest.raises(UserError, match="was not written by YingGem"):
        load_model(tmp_path / "other.safetensors")
