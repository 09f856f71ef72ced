"""The engine for browsers: the file that is kept is of these sources, and a new one computes the same."""

import shutil

import numpy as np
import pytest
from exported import source_of
from html_in_node import answers

from yinggem.engine.build_wasm import FUNCTIONS, WASM, compile_wasm, kept_hash, source_hash
from yinggem.engine.engine import Engine
from yinggem.export.html import contents, file
from yinggem.export.source import Source
from yinggem.inference.token_log import log_probabilities

TEXT = "To be, or not to be: that is the question. 'Tis nobler in the mind to suffer."  # of two windows and more


def test_the_file_that_is_kept_is_made_of_these_sources():
    content = WASM.read_bytes()
    assert kept_hash(content) == source_hash(), "the C of the engine has changed since: run make wasm"
    assert content[:4] == b"\0asm" and all(name.encode() in content for name in FUNCTIONS) and len(content) < 80_000


@pytest.mark.slow
def test_a_file_that_is_made_anew_and_the_kept_one_compute_what_the_native_engine_does(tmp_path, monkeypatch):
    if not (shutil.which("clang") and shutil.which("wasm-ld")):
        pytest.skip("there is no clang, or no wasm-ld")
    compile_wasm(tmp_path / "engine.wasm")
    options = {"norm": "layer", "activation": "relu2"}, {"tie_word_embeddings": True, "qk_norm": True}
    for source, wasm in zip((source_of(**each) for each in options), (WASM, tmp_path / "engine.wasm"), strict=True):
        monkeypatch.setattr(contents, "WASM", wasm)
        file.export(source, tmp_path / "a.html")
        expected = native(source)
        [[choice]] = answers(tmp_path / "a.html", {"prompt": TEXT, "echo": True, "max_tokens": 0, "logprobs": 20})
        told = choice["logprobs"]
        assert told["token_logprobs"][0] is None and told["text_offset"] == [*range(len(TEXT))]
        for logs, token, logprob, top in zip(
            expected, TEXT[1:], told["token_logprobs"][1:], told["top_logprobs"][1:], strict=True
        ):
            assert abs(logs[ord(token)] - logprob) < 1e-5
            assert sorted(np.sort(logs)[-20:]) == pytest.approx(sorted(top.values())[-20:], abs=1e-5)


def native(source: Source) -> np.ndarray:
    """(T - 1, V) log-probabilities, by the engine of this machine in 8 bits."""
    weights = {name: tensor.numpy() for name, tensor in source.model.state_dict().items()}
    engine = Engine(source.config, weights, storage="int8")
    rows = [log_probabilities(engine.read(0, [token])) for token in TEXT.encode()[:-1]]
    return np.stack(rows)
