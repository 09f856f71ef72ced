"""The folder as transformers loads it: the class, the logits, and the same greedy text past the window."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from exported import GREEDY, LENGTH, PROMPT, greedy, source_of
from transformers import AutoModelForCausalLM, AutoTokenizer

from yinggem.common.errors import UserError
from yinggem.export import hf, onnx
from yinggem.export.folder import write_folder
from yinggem.export.hf_config import OWN, kind_of
from yinggem.export.hf_import import read_folder
from yinggem.text.tokenizer import BPETokenizer, ByteTokenizer, CharTokenizer, GPT2Tokenizer

NO_BIAS: dict[str, Any] = {"bias": False}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "tiny and small": ("Qwen3ForCausalLM", {"bias": False, "qk_norm": True}),
    "tied": ("Qwen3ForCausalLM", {"bias": False, "qk_norm": True, "tie_word_embeddings": True}),
    "neither": ("MistralForCausalLM", NO_BIAS),
    "full attention": ("MistralForCausalLM", NO_BIAS | {"attention_window": None}),
    "swiglu": ("MistralForCausalLM", NO_BIAS | {"activation": "swiglu"}),
    "biases": ("SmolLM3ForCausalLM", {"head_bias": False}),
    "the reference": ("YingGemForCausalLM", {}),
    "relu2": ("YingGemForCausalLM", NO_BIAS | {"activation": "relu2"}),
    "layer norm": ("YingGemForCausalLM", {"norm": "layer", "qk_norm": True}),
    "tied head with a bias": ("YingGemForCausalLM", NO_BIAS | {"tie_word_embeddings": True, "head_bias": True}),
}


MAIN = ("tiny and small", "neither", "biases", "the reference")


@pytest.fixture(autouse=True)
def offline(monkeypatch, tmp_path):
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))


def loaded(folder: Path) -> Any:
    config = json.loads((folder / "config.json").read_text())
    own = "auto_map" in config
    assert (folder / "modeling_yinggem.py").exists() == own
    model, report = AutoModelForCausalLM.from_pretrained(
        folder, trust_remote_code=own, local_files_only=True, output_loading_info=True
    )
    assert not any(report.values()), report  # nothing is missing, nothing is left over
    return model.eval()


@pytest.mark.parametrize(
    "case", [case if case in MAIN else pytest.param(case, marks=pytest.mark.slow) for case in CASES]
)
@torch.inference_mode()
def test_logits_are_ours_past_the_window(tmp_path, case):
    architecture, changes = CASES[case]
    source = source_of(**changes)
    hf.export(source, tmp_path / "a")
    theirs = loaded(tmp_path / "a")
    assert type(theirs).__name__ == architecture and theirs.dtype == torch.float32
    tokens = torch.randint(256, (2, LENGTH))
    torch.testing.assert_close(theirs(tokens).logits, source.model(tokens), rtol=0, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("case", [*MAIN, "layer norm"])
@torch.inference_mode()
def test_generate_writes_the_same_greedy_text_past_the_window(tmp_path, case):
    source = source_of(**CASES[case][1])
    hf.export(source, tmp_path / "a")
    prompt = torch.randint(256, (2, PROMPT))
    wanted = {"max_new_tokens": GREEDY, "do_sample": False, "repetition_penalty": 1.0}
    theirs = loaded(tmp_path / "a").generate(prompt, **wanted)
    assert torch.equal(theirs[:, PROMPT:], greedy(source.model, prompt))


@pytest.mark.parametrize(
    "tokenizer",
    [pytest.param(GPT2Tokenizer(), marks=pytest.mark.slow), BPETokenizer(280), CharTokenizer()],
    ids=lambda t: t.name,
)
def test_the_tokenizer_that_transformers_finds_there_gives_our_ids(tmp_path, tokenizer):
    text = "To be, or not to be?\n\n  That is   the question: 'tis 42.\n" * 9
    tokenizer.fit(lambda: [text])
    hf.export(source_of(tokenizer, bias=False), tmp_path / "a")
    theirs = AutoTokenizer.from_pretrained(tmp_path / "a", local_files_only=True)
    ids = tokenizer.encode(text)
    assert theirs(text)["input_ids"] == ids and theirs.decode(ids) == text
    assert len(theirs) == tokenizer.vocab_size


@pytest.mark.parametrize("tokenizer", [BPETokenizer(280), CharTokenizer(), ByteTokenizer()], ids=lambda t: t.name)
@torch.inference_mode()
def test_the_end_of_a_document_is_the_end_there_and_no_text_is_taken_for_it(tmp_path, tokenizer):
    text = "To be, or not to be?<|endoftext|>\n\n  That is   the question: 'tis 42.\n"
    tokenizer.fit(lambda: [text * 9])
    tokenizer.mark_documents()
    end = tokenizer.end_id
    source = source_of(tokenizer, bias=False, document_end=end)
    hf.export(source, tmp_path / "a")
    theirs, model = AutoTokenizer.from_pretrained(tmp_path / "a"), loaded(tmp_path / "a")
    ids = tokenizer.encode(text)
    assert theirs(text)["input_ids"] == ids and theirs.decode([*ids, end], skip_special_tokens=True) == text
    assert theirs.eos_token_id == model.generation_config.eos_token_id == end
    tokens = torch.tensor([[end, *ids]])
    torch.testing.assert_close(model(tokens).logits, source.model(tokens), rtol=0, atol=1e-4)
    model, found, _ = read_folder(tmp_path / "a")
    assert model.config == source.config and found.fingerprint == tokenizer.fingerprint


def test_pairs_are_refused(tmp_path):
    tokenizer = ByteTokenizer()
    tokenizer.mark_documents("Q: {prompt} A:")
    with pytest.raises(UserError, match=r"cannot express data\.format=pairs"):
        hf.export(source_of(tokenizer), tmp_path / "a")
    with pytest.raises(UserError, match=r"--format onnx cannot express data\.format=pairs"):
        onnx.export(source_of(tokenizer), tmp_path / "a")
    assert not list(tmp_path.iterdir())


def test_bfloat16_stays_bfloat16(tmp_path):
    source = source_of(bias=False)
    source.model.bfloat16()
    hf.export(source, tmp_path / "a")
    assert loaded(tmp_path / "a").dtype == torch.bfloat16


def test_an_earlier_export_is_replaced_and_nothing_else(tmp_path):
    reference, stock = source_of(), source_of(bias=False)
    hf.export(reference, tmp_path / "a")
    hf.export(stock, tmp_path / "a")
    assert kind_of(reference.config) is OWN and not (tmp_path / "a" / "modeling_yinggem.py").exists()
    assert [path.name for path in tmp_path.iterdir() if path.name != "modules"] == ["a"]
    (tmp_path / "a" / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match=r"also holds notes\.txt"):
        hf.export(stock, tmp_path / "a")
    (tmp_path / "b").mkdir()
    hf.export(stock, tmp_path / "b")  # an empty folder is filled
    (tmp_path / "b" / "config.json").write_text("{}")
    with pytest.raises(UserError, match="was not written by"):
        hf.export(stock, tmp_path / "b")
    assert (tmp_path / "a" / "notes.txt").read_text() == "mine"


def test_a_setting_that_came_later_is_refused_by_its_name(tmp_path, monkeypatch):
    """As long as nobody has said how transformers expresses it."""
    monkeypatch.setattr(hf, "EXPRESSIBLE", hf.EXPRESSIBLE - {"qk_norm"})
    with pytest.raises(UserError, match=r"--format hf cannot express model\.qk_norm=true; use --format safetensors"):
        hf.export(source_of(qk_norm=True), tmp_path / "a")
    assert not (tmp_path / "a").exists()
    hf.export(source_of(qk_norm=False), tmp_path / "a")


def test_a_disk_that_fails_leaves_the_earlier_folder(tmp_path):
    hf.export(source_of(bias=False), tmp_path / "a")
    before = {path.name: path.read_bytes() for path in (tmp_path / "a").iterdir()}

    def fail(folder: Path) -> None:
        (folder / "config.json").write_text("{")
        raise OSError(28, "No space left on device")

    for place in (tmp_path / "a", tmp_path / "new"):
        with pytest.raises(UserError, match=r"Cannot write .*No space left"):
            write_folder(place, fail)
    assert {path.name: path.read_bytes() for path in (tmp_path / "a").iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
