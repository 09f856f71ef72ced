"""What was exported comes back exactly; what YingGem has no setting for is refused by name, and no pickle is opened."""

import json
import pickle
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from exported import DATA, source_of
from safetensors.torch import load, save_file
from transformers import AutoModelForCausalLM

from yinggem.__main__ import main
from yinggem.common.errors import UserError
from yinggem.export import hf
from yinggem.export.hf_import import read_folder
from yinggem.inference.checkpoint import load_model, read_checkpoint
from yinggem.text.tokenizer import BPETokenizer

STOCK: dict[str, Any] = {"bias": False, "qk_norm": True}
SHAPES = [STOCK, STOCK | {"tie_word_embeddings": True}, {"bias": False, "attention_window": None}, {"head_bias": False},
          {}, {"norm": "layer", "activation": "relu2"}, {"bias": False, "head_bias": True, "dropout": 0.1}]  # fmt: skip


@pytest.fixture
def folder(tmp_path) -> Path:
    hf.export(source_of(**STOCK), tmp_path / "a")
    return tmp_path / "a"


@pytest.mark.parametrize("changes", SHAPES, ids=str)
def test_what_comes_back_is_what_left(tmp_path, changes):
    tokenizer = BPETokenizer(270)
    tokenizer.fit(lambda: ["To be, or not to be: that is the question. Whether 'tis nobler in the mind" * 3])
    source = source_of(tokenizer, **changes)
    hf.export(source, tmp_path / "a")
    model, found, about = read_folder(tmp_path / "a")
    assert model.config == source.config and found.fingerprint == tokenizer.fingerprint
    assert about == {"context_length": 64, "data": DATA}
    ours = source.model.state_dict()
    assert model.state_dict().keys() == ours.keys()
    assert all(torch.equal(value, ours[name]) for name, value in model.state_dict().items())


@pytest.mark.slow
@pytest.mark.parametrize("changes", SHAPES[:5], ids=str)
def test_what_transformers_saved_again_comes_back(tmp_path, changes, monkeypatch):
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    source = source_of(**changes)
    hf.export(source, tmp_path / "a")
    AutoModelForCausalLM.from_pretrained(tmp_path / "a", trust_remote_code=True).save_pretrained(tmp_path / "b")
    (tmp_path / "a" / "tokenizer.json").rename(tmp_path / "b" / "tokenizer.json")
    model, _, _ = read_folder(tmp_path / "b")
    assert model.config == source.config
    assert all(torch.equal(value, source.model.state_dict()[name]) for name, value in model.state_dict().items())


def test_the_command_writes_a_checkpoint_and_replaces_nothing(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["import", "a"]) == 0 and "a.ckpt" in capsys.readouterr().out
    model, _ = load_model("a.ckpt")
    assert torch.equal(model.embedding.weight, source_of(**STOCK).model.embedding.weight)
    assert read_checkpoint("a.ckpt")["yinggem"]["context_length"] == 64
    assert main(["import", "a"]) == 2 and "exists already" in capsys.readouterr().err
    assert main(["import", "a", "--output", "b.safetensors"]) == 0
    assert load_model("b.safetensors")[0].config == model.config
    assert main(["import", "nothing"]) == 2 and "is not a folder" in capsys.readouterr().err


def edit(folder: Path, **changes: Any) -> None:
    content = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"architectures": ["LlamaForCausalLM"]}, "only Qwen3ForCausalLM, MistralForCausalLM"),
        ({"architectures": None}, "only Qwen3ForCausalLM"),
        ({"attention_bias": True}, "has attention_bias=True"),
        ({"head_dim": 16}, "has head_dim=16"),
        ({"hidden_act": "gelu"}, "model.activation must be"),
        ({"hidden_act": "relu2"}, "has hidden_act=relu2 with a gate"),
        ({"layer_types": ["full_attention"] * 3}, "has layer_types="),
        ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0}}, "has rope_parameters="),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "has rope_scaling="),
        ({"quantization_config": {"bits": 4}}, "has quantization_config="),
        ({"tie_word_embeddings": None}, "lacks tie_word_embeddings"),
        ({"hidden_size": "48"}, "model.hidden_size must be"),
        ({"num_hidden_layers": 4, "layer_types": ["sliding_attention"] * 4}, "lacks model.layers.3"),
        ({"num_hidden_layers": 2, "layer_types": ["sliding_attention"] * 2}, "also holds model.layers.2"),
        ({"intermediate_size": 65}, "weights where its architecture has"),
        ({"vocab_size": 255}, "256 ids"),
    ],
    ids=str,
)
def test_what_cannot_be_expressed_is_named(folder, changes, sentence):
    edit(folder, **changes)
    with pytest.raises(UserError, match=re.escape(sentence)) as caught:
        read_folder(folder)
    assert str(folder) in str(caught.value)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
@pytest.mark.parametrize("content", [None, b"", b"[" * 100_000, b"\xff", b"[]"], ids=str)
def test_damaged_descriptions_are_refused(folder, name, content):
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_bytes(content)
    with pytest.raises(UserError, match=re.escape(name)) as caught:
        read_folder(folder)
    assert ("there is no such file" in str(caught.value)) == (content is None)


class Touch:
    """Pickles to a call that leaves a mark."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return Path.mkdir, (self.mark,)


def test_pickles_and_damaged_weights_are_refused_and_nothing_runs(folder, tmp_path):
    good = (folder / "model.safetensors").read_bytes()
    tensors = load(good)
    bad = pickle.dumps(Touch(tmp_path / "mark"))
    for content in (bad, b"", good[:-1], good[:100], b"\xff" * 100):
        (folder / "model.safetensors").write_bytes(content)
        with pytest.raises(UserError, match="is damaged"):
            read_folder(folder)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    (folder / "modeling_yinggem.py").write_text(f"import os\nos.mkdir({str(tmp_path / 'mark')!r})\n")
    edit(folder, auto_map={"AutoConfig": "modeling_yinggem.YingGemConfig"})
    with pytest.raises(UserError, match=r"pickles such as pytorch_model\.bin are never read"):
        read_folder(folder)
    name = "model.layers.0.self_attn.q_proj.weight"
    for tensor, sentence in [
        (tensors[name].half(), "several types"),
        (tensors[name][:, :10].contiguous(), "other shapes"),
        (tensors[name][:10].contiguous(), "weights where its architecture has"),
    ]:
        save_file(tensors | {name: tensor}, folder / "model.safetensors")
        with pytest.raises(UserError, match=sentence):
            read_folder(folder)
    save_file(tensors, folder / "model.safetensors")
    read_folder(folder)
    assert not (tmp_path / "mark").exists()
