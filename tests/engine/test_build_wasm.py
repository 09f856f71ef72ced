"""The engine for browsers: the file that is kept is of these sources, and a new one computes the same."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from exported import source_of
from html_in_node import answers

from yinggem.engine.build_wasm import FUNCTIONS, WASM, compile_wasm, kept_hash, source_hash
from yinggem.engine.engine import Engine
from yinggem.export.html import contents, file
from yinggem.export.source import Source
from yinggem.inference.token_log import log_probabilities
from yinggem.model.quantization import quantize

TEXT = "To be, or not to be: that is the question. 'Tis nobler in the mind to suffer."  # of two windows and more


def test_the_file_that_is_kept_is_made_of_these_sources():
    content = WASM.read_bytes()
    assert kept_hash(content) == source_hash(), "the C of the engine has changed since: run make wasm"
    assert content[:4] == b"\0asm" and all(name.encode() in content for name in FUNCTIONS) and len(content) < 90_000


@pytest.mark.slow
def test_a_file_that_is_made_anew_and_the_kept_one_compute_what_the_native_engine_does(tmp_path, monkeypatch):
    if not (shutil.which("clang") and shutil.which("wasm-ld")):
        pytest.skip("there is no clang, or no wasm-ld")
    compile_wasm(tmp_path / "engine.wasm")
    check(source_of(norm="layer", activation="relu2"), tmp_path / "a.html", 1e-5)
    monkeypatch.setattr(contents, "WASM", tmp_path / "engine.wasm")
    check(source_of(tie_word_embeddings=True, qk_norm=True), tmp_path / "a.html", 1e-5)
    four = source_of(hidden_size=64)
    quantize(four.model, "int4")
    check(four, tmp_path / "a.html", 0.1)  # its groups are summed in floats, and what is rounded behind them may differ


def check(source: Source, page: Path, near: float) -> None:
    """The page and the engine of this machine find the same log-probabilities of a text."""
    file.export(source, page)
    expected = native(source)
    [[choice]] = answers(page, {"prompt": TEXT, "echo": True, "max_tokens": 0, "logprobs": 20})
    told = choice["logprobs"]
    assert told["token_logprobs"][0] is None and told["text_offset"] == [*range(len(TEXT))]
    for logs, token, logprob, top in zip(
        expected, TEXT[1:], told["token_logprobs"][1:], told["top_logprobs"][1:], strict=True
    ):
        assert abs(logs[ord(token)] - logprob) < near
        assert sorted(np.sort(logs)[-20:]) == pytest.approx(sorted(top.values())[-20:], abs=near)


def native(source: Source) -> np.ndarray:
    """(T - 1, V) log-probabilities, by the engine of this machine: in 8 bits, where it is not of integers already."""
    bits = {torch.bfloat16: torch.uint16}
    weights = {name: x.view(bits.get(x.dtype, x.dtype)).numpy() for name, x in source.model.state_dict().items()}
    engine = Engine(source.config, weights, storage="int8")
    return np.stack([log_probabilities(engine.read(0, [token])) for token in TEXT.encode()[:-1]])
