"""The file that llama.cpp reads: what is in it, and with `make peers` the same greedy text past the window there."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from exported import GREEDY, PROMPT, greedy, source_of

from yinggem.common.errors import UserError
from yinggem.export import gguf
from yinggem.text.tokenizer import BPETokenizer, ByteTokenizer, CharTokenizer, Tokenizer

library = pytest.importorskip("gguf")

TEXT = "To be, or not  to be?\n\n 'tis 42 <|endoftext|> é漢字\t\t x"
NEAR = 0.1  # of logits: llama.cpp looks gelu up in a table of float16
FITS: dict[str, Any] = {"bias": False}


def fitted(tokenizer: Tokenizer) -> Tokenizer:
    tokenizer.fit(lambda: [TEXT * 20])
    return tokenizer


def test_the_tensors_are_ours_with_a_gate_that_is_undone(tmp_path):
    source = source_of(**FITS)
    gguf.export(source, tmp_path / "a.gguf")
    reader = library.GGUFReader(tmp_path / "a.gguf")
    tensors = {tensor.name: torch.from_numpy(np.array(tensor.data)) for tensor in reader.tensors}
    block = source.model.blocks[1]
    gate = torch.sigmoid(tensors["blk.1.attn_gate.weight"] @ torch.randn(48)).unique()
    assert torch.equal(gate * tensors["blk.1.attn_output.weight"], block.get_parameter("attention.output.weight"))
    both = torch.cat((tensors["blk.1.ffn_gate.weight"], tensors["blk.1.ffn_up.weight"]))
    assert torch.equal(both, block.get_parameter("mlp.gate_up.weight"))
    assert torch.equal(tensors["output.weight"], source.model.head.weight)
    assert reader.fields["general.architecture"].contents() == "spark2_5"
    assert reader.fields["spark2_5.attention.sliding_window"].contents() == 32
    assert reader.fields["spark2_5.attention.sliding_window_pattern"].contents() == [True] * 3
    assert len(reader.fields["tokenizer.ggml.tokens"].contents()) == 256
    assert [path.name for path in tmp_path.iterdir()] == ["a.gguf"]


def test_a_tied_head_is_held_once(tmp_path):
    gguf.export(source_of(tie_word_embeddings=True, **FITS), tmp_path / "a.gguf")
    names = {tensor.name for tensor in library.GGUFReader(tmp_path / "a.gguf").tensors}
    assert "token_embd.weight" in names and "output.weight" not in names


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({}, "cannot express model.bias=true; use --format hf or onnx"),
        ({"bias": False, "head_bias": True}, "cannot express model.head_bias=true"),
        ({"bias": False, "qk_norm": True}, "cannot express model.qk_norm=true"),
        ({"bias": False, "activation": "swiglu"}, "cannot express model.activation=swiglu"),
        ({"bias": False, "norm": "layer"}, "cannot express model.norm=layer"),
    ],
    ids=str,
)
def test_what_is_in_the_way_is_named(tmp_path, changes, sentence):
    with pytest.raises(UserError, match=sentence.replace(".", r"\.")):
        gguf.export(source_of(**changes), tmp_path / "a.gguf")
    with pytest.raises(UserError, match=r"must end in \.gguf"):
        gguf.export(source_of(**changes), tmp_path / "a.bin")
    assert not list(tmp_path.iterdir())


def test_characters_and_templates_are_refused(tmp_path):
    pairs = fitted(ByteTokenizer())
    pairs.mark_documents("{prompt}:")
    with pytest.raises(UserError, match=r"cannot express data\.format=pairs; use --format safetensors or html"):
        gguf.export(source_of(pairs), tmp_path / "a.gguf")  # whatever else it cannot express
    with pytest.raises(UserError, match="cannot express tokenizer=char; use --format hf"):
        gguf.export(source_of(fitted(CharTokenizer()), **FITS), tmp_path / "a.gguf")


@pytest.mark.peers
@pytest.mark.parametrize("changes", [{}, {"tie_word_embeddings": True}, {"attention_window": None}], ids=str)
@pytest.mark.parametrize("tokenizer", [ByteTokenizer(), BPETokenizer(280)], ids=lambda tokenizer: tokenizer.name)
def test_llama_cpp_writes_the_same_greedy_text_past_the_window(tmp_path, tokenizer, changes):
    """By its server, which reports ids one by one as long as each is whole characters: no others are likely here."""
    source = source_of(fitted(tokenizer), **FITS, **changes)
    unlikely = [number for number, token in enumerate(tokenizer.tokens) if not token.isascii() or token == b"\0"]
    with torch.no_grad():
        source.model.head.weight[unlikely] = 0
    gguf.export(source, tmp_path / "a.gguf")
    complete = server(tmp_path / "a.gguf")
    prompt = torch.randint(1, 128, (1, PROMPT))
    found = complete(prompt[0].tolist(), GREEDY, tokenizer.vocab_size)
    theirs = torch.tensor([[step["id"] for step in found]])
    with torch.inference_mode():
        logits = source.model(torch.cat((prompt, theirs), dim=1))[0, PROMPT - 1 : -1].log_softmax(-1)
    for step, logs in zip(found, logits.tolist(), strict=True):
        assert max(abs(each["logprob"] - logs[each["id"]]) for each in step["top_logprobs"]) < NEAR
    differ = (theirs != greedy(source.model, prompt))[0].nonzero()
    if len(differ):  # two tokens were as likely
        first, second = logits[differ[0, 0]].topk(2).values.tolist()
        assert first - second < NEAR
    of_text, of_ids = (complete(what, 1, 5)[0]["top_logprobs"] for what in (TEXT, tokenizer.encode(TEXT)))
    assert [(one["id"], pytest.approx(one["logprob"], abs=0.01)) for one in of_text] == [
        (one["id"], one["logprob"]) for one in of_ids
    ]


def server(path: Path) -> Any:
    """llama.cpp's own, in this process: (a text or ids, how many to write, how many likeliest to name) -> the steps."""
    xllamacpp = pytest.importorskip("xllamacpp")
    settings = xllamacpp.CommonParams()
    settings.model.path, settings.n_ctx, settings.n_parallel, settings.warmup = str(path), 512, 1, False
    settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = 1
    settings.cache_type_k = settings.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    running = xllamacpp.Server(settings)

    def complete(prompt: str | list[int], count: int, likeliest: int) -> list[dict[str, Any]]:
        request = {
            "prompt": prompt,
            "max_tokens": count,
            "temperature": 0,
            "logprobs": likeliest,
            "cache_prompt": False,
        }
        answer = running.handle_completions(request)
        answer = json.loads(answer) if isinstance(answer, str) else answer
        steps: list[dict[str, Any]] = answer["choices"][0]["logprobs"]["content"]
        return steps

    return complete
