"""yinggem export: what it writes, what it leaves out, and what it refuses."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from running import Done

from yinggem.__main__ import main
from yinggem.export.formats import FORMATS
from yinggem.inference.checkpoint import load_model, read_checkpoint, save_model
from yinggem.inference.files.stored_model import read_model
from yinggem.memory.ngram_memory import NgramMemory
from yinggem.model.config import ModelConfig
from yinggem.model.quantization import quantize
from yinggem.model.transformer import Transformer
from yinggem.runs.result import write_result
from yinggem.text.tokenizer import ByteTokenizer

TEXT = "To be, or not to be: that is the question.\n" * 20
DATA = {"source": "text", "path": "/home/somebody/secret/poems", "val_fraction": 0.1, "split_by": "characters",
        "fingerprint": "0"}  # fmt: skip


@pytest.fixture
def checkpoint(tmp_path) -> Path:
    torch.manual_seed(0)
    model = Transformer(ModelConfig(256, 16, 2, 2, None, 24, 4, bias=False))
    memory = NgramMemory(ByteTokenizer().encode_array(TEXT), 256)
    save_model(tmp_path / "model.ckpt", model, ByteTokenizer(), memory, context_length=32, data=DATA)
    return tmp_path / "model.ckpt"


@pytest.fixture
def typed(capsys, checkpoint):
    """Types `yinggem` and these words."""

    def run(*words: object) -> Done:
        status = main([str(word) for word in words])
        return Done(status, *capsys.readouterr())

    return run


def exported(typed, checkpoint, name: str, output: Path, *more: str) -> Done:
    return typed("export", "--checkpoint", checkpoint, "--format", name, output, *more)


def test_the_training_text_goes_with_it_only_when_asked_for(typed, checkpoint, tmp_path):
    alone, whole = tmp_path / "alone.safetensors", tmp_path / "whole.safetensors"
    assert "memory was left out" in exported(typed, checkpoint, "safetensors", alone).out
    assert read_model(alone).memory is None
    assert "training text is in it" in exported(typed, checkpoint, "safetensors", whole, "--with-memory").out
    kept, first = read_model(whole).memory, read_model(checkpoint).memory
    assert kept and first and kept.to_dict() == first.to_dict()
    assert "has no memory" in exported(typed, alone, "safetensors", whole, "--with-memory").refused()


def test_a_safetensors_file_is_the_model_without_where_its_text_lay(typed, checkpoint, tmp_path):
    output = tmp_path / "a.safetensors"
    done = exported(typed, checkpoint, "safetensors", output)
    assert done.status == 0 and f"{output}: " in done.out
    (ours, tokenizer), (theirs, found) = load_model(checkpoint), load_model(output)
    assert theirs.config == ours.config and found.fingerprint == tokenizer.fingerprint
    assert all(torch.equal(theirs.state_dict()[name], value) for name, value in ours.state_dict().items())
    entry = read_checkpoint(output)["yinggem"]
    assert entry["context_length"] == 32 and entry["data"] == DATA | {"path": "poems"}
    assert b"somebody" not in output.read_bytes()
    words = ("generate", "--prompt", "To", "--max-new-tokens", 20, "--checkpoint")
    assert typed(*words, output).out == typed(*words, checkpoint, "--memory", 0).out


def test_the_model_card_says_what_it_learnt_and_how_good_it_is(typed, checkpoint, tmp_path):
    best = tmp_path / "run" / "checkpoints" / "best.ckpt"
    best.parent.mkdir(parents=True)
    checkpoint.rename(best)
    write_result(
        tmp_path / "run", {"bits_per_byte": 2.25, "counting_bits_per_byte": 2.5, "together_bits_per_byte": 2.0}
    )
    done = typed(
        "export", "--checkpoint", tmp_path / "run", "--format", "hf", tmp_path / "hf", "--license", "mit\nx: y"
    )
    assert done.status == 0 and "memory was left out" in done.out
    card = (tmp_path / "hf" / "README.md").read_text()
    for line in ("license: mit_x_ y", "first 90 % of poems, by characters", "| the network alone | 2.2500 |",
                 "| counting its training text alone | 2.5000 |", "| both together | 2.0000 |"):  # fmt: skip
        assert line in card
    assert "trust_remote_code" not in card and "somebody" not in card
    best.rename(tmp_path / "copy.ckpt")  # no run, no figures
    typed("export", "--checkpoint", tmp_path / "copy.ckpt", "--format", "hf", tmp_path / "hf")
    assert "Not known here" in (tmp_path / "hf" / "README.md").read_text()


@pytest.mark.parametrize("name", sorted(name for name in FORMATS if not FORMATS[name].holds_memory))
def test_formats_without_a_place_for_it_refuse_a_memory(typed, checkpoint, tmp_path, name):
    done = exported(typed, checkpoint, name, tmp_path / "x", "--with-memory")
    assert "no place for a memory" in done.refused() and not (tmp_path / "x").exists()


@pytest.mark.parametrize("name", sorted(set(FORMATS) - {"safetensors", "html"}))
def test_integers_are_refused_where_floats_are_wanted(typed, checkpoint, tmp_path, name):
    model, tokenizer = load_model(checkpoint)
    save_model(tmp_path / "int8.ckpt", quantize(model, "int8"), tokenizer)
    done = exported(typed, tmp_path / "int8.ckpt", name, tmp_path / "x")
    assert "is quantized (int8)" in done.refused() and not (tmp_path / "x").exists()


def test_what_cannot_be_written_is_refused_and_leaves_nothing(typed, checkpoint, tmp_path):
    assert "must end in .safetensors" in exported(typed, checkpoint, "safetensors", tmp_path / "a.bin").refused()
    assert "Cannot write" in exported(typed, checkpoint, "safetensors", tmp_path / "no" / "a.safetensors").refused()
    assert "is the checkpoint itself" in exported(typed, checkpoint, "safetensors", checkpoint).refused()
    assert "Cannot read" in exported(typed, tmp_path / "missing.ckpt", "safetensors", tmp_path / "a").refused()
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    left = f".a.safetensors.{dead.pid}-0123abcd"
    for name in (f"{left}.partial", f"{left}.earlier", f".b.safetensors.{dead.pid}-0123abcd.partial"):
        (tmp_path / name).mkdir()
    (tmp_path / f".a.safetensors.{os.getppid()}-0123abcd.partial").touch()  # of an export that goes on
    assert exported(typed, checkpoint, "safetensors", tmp_path / "a.safetensors").status == 0
    assert [path.name[:3] for path in sorted(tmp_path.glob(".*"))] == [".a.", ".b."]
    for path in (*tmp_path.glob(".b*"), *tmp_path.glob("*a.safe*")):
        path.rmdir() if path.is_dir() else path.unlink()
    with pytest.raises(SystemExit):
        exported(typed, checkpoint, "pickle", tmp_path / "a")
    assert [path.name for path in tmp_path.iterdir()] == ["model.ckpt"]


@pytest.mark.parametrize(("name", "file"), [("safetensors", "a.safetensors"), ("html", "a.html")])
def test_a_file_is_replaced_only_if_an_export_wrote_it(typed, checkpoint, tmp_path, name, file):
    (tmp_path / file).write_text("mine")
    assert f"{file} exists already" in exported(typed, checkpoint, name, tmp_path / file).refused()
    assert (tmp_path / file).read_text() == "mine"
    (tmp_path / file).unlink()
    for _ in range(2):
        assert exported(typed, checkpoint, name, tmp_path / file).status == 0


def test_what_was_trained_is_never_replaced_by_a_quantized_checkpoint(typed, checkpoint, tmp_path):
    trained = tmp_path / "other.ckpt"
    trained.write_bytes(checkpoint.read_bytes())
    into = ["quantize", "--checkpoint", checkpoint, "--output"]
    assert "other.ckpt exists already and is no quantized checkpoint" in typed(*into, trained).refused()
    assert trained.read_bytes() == checkpoint.read_bytes()
    for kind in ("int8", "int4"):  # but what can be made again is
        assert typed(*into, tmp_path / "small.ckpt", "--quantize", kind).status == 0
