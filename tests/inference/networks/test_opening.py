"""Which engine computes a model, and that a choice changes nothing but the time."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from yinggem.common.errors import UserError
from yinggem.engine.engine import engine_refusal
from yinggem.inference.checkpoint import load_model, save_model
from yinggem.inference.completion import complete
from yinggem.inference.copying import TrainingText
from yinggem.inference.files.stored_model import read_model
from yinggem.inference.generation import LogitsStep, Network
from yinggem.inference.memory_step import memory_steps
from yinggem.inference.networks.opening import network_of, open_network
from yinggem.inference.networks.torch_network import TorchNetwork
from yinggem.inference.sampling import Sampling
from yinggem.memory.ngram_memory import NgramMemory
from yinggem.model.config import ModelConfig
from yinggem.model.quantization import quantize
from yinggem.model.transformer import Transformer
from yinggem.text.tokenizer import ByteTokenizer

COMPILED = engine_refusal(ModelConfig(1)) is None
compiled = pytest.mark.skipif(not COMPILED, reason="there is no compiled engine")
SAMPLING = Sampling(temperature=1.0, typical_p=0.95, no_repeat_ngram_size=4)


def make(**changes: Any) -> Transformer:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 64,
    }
    return Transformer(ModelConfig(256, **(sizes | {"attention_window": 8, "initializer_range": 0.1} | changes))).eval()


@pytest.fixture
def path(tmp_path) -> Path:
    save_model(tmp_path / "a.ckpt", make(), ByteTokenizer())
    return tmp_path / "a.ckpt"


def text(network: Network, tokens: int = 60) -> list[list[int]]:
    found = {row: sample for row, _, sample in complete(network, ByteTokenizer(), "To be", tokens, SAMPLING, range(3))}
    return [sample.tokens for sample in found.values()]


@compiled
@pytest.mark.parametrize(
    "changes", [{}, {"tie_word_embeddings": True, "qk_norm": True}, {"norm": "layer", "bias": False}]
)
def test_the_text_of_a_seed_is_the_same_by_torch_in_c_and_of_a_model_in_training(tmp_path, changes):
    save_model(tmp_path / "a.ckpt", make(**changes), ByteTokenizer())
    model, stored = load_model(tmp_path / "a.ckpt")[0], read_model(tmp_path / "a.ckpt")
    network, in_training = open_network(stored), network_of(model)
    assert network.about.startswith("C on cpu") and in_training.about.startswith("C on cpu")
    assert text(network) == text(in_training) == text(TorchNetwork(model))


@compiled
@pytest.mark.slow
def test_it_is_the_same_over_a_thousand_tokens_by_all_ways_but_for_a_tie_of_rounding(path):
    """A number that falls within float32's rounding of a border, about once in 100,000 tokens, parts two texts."""
    model = load_model(path)[0]
    texts = [text(network, 1000) for network in (open_network(read_model(path)), TorchNetwork(model))]
    assert sum(one == other for one, other in zip(*texts, strict=True)) >= 2


@compiled
@pytest.mark.parametrize(("changes", "limit"), [
    ({}, None), ({"temperature": 0.0, "repetition_penalty": 1.0}, 1), ({"top_k": 5, "repetition_window": 9}, "8c"),
    ({"min_p": 0.1}, 1),
])  # fmt: skip
def test_memory_and_max_copy_give_the_same_text_in_c_and_in_the_loop(tmp_path, changes, limit):
    text = "To be, or not to be, that is the question: to be to be " * 9
    memory = NgramMemory(np.frombuffer(text.encode(), np.uint8), 256, cache_dir=tmp_path)
    training, sampling = TrainingText(memory, ByteTokenizer()), replace(SAMPLING, **changes)
    network = network_of(make())

    def texts(network: Network, *more: LogitsStep) -> list[list[int]]:
        limits = training.steps(limit, ["To b", "To b", "To b"])
        steps = [
            [*mixing, *more, *rest]
            for mixing, rest in zip(memory_steps(memory, ByteTokenizer(), "To b", 3), limits, strict=True)
        ]
        assert network.draws(sampling, steps) == (not more)
        pieces = complete(network, ByteTokenizer(), "To b", 60, sampling, range(3), (), steps)
        return [sample.tokens for sample in {row: sample for row, _, sample in pieces}.values()]

    assert texts(network) == texts(network, Unchanged())


class Unchanged:
    """A step that the engine does not know."""

    def apply(self, logits: np.ndarray) -> np.ndarray:
        return logits

    def add(self, token: int) -> None: ...


@compiled
@pytest.mark.parametrize("kind", ["int8", "int4"])
def test_weights_quantized_at_load_are_those_of_a_quantized_file(tmp_path, path, kind):
    save_model(tmp_path / "q.ckpt", quantize(load_model(path)[0], kind), ByteTokenizer())
    ids = np.frombuffer(b"Shall I compare thee to a summer's day?" * 4, np.uint8)
    at_load, kept = open_network(read_model(path), "cpu", kind), open_network(read_model(tmp_path / "q.ckpt"), "cpu")
    assert at_load.nats(ids) == pytest.approx(kept.nats(ids), rel=1e-5)
    assert kind in at_load.about and at_load.about == kept.about
    by_torch = TorchNetwork(load_model(tmp_path / "q.ckpt")[0]).nats(ids)
    assert kept.nats(ids).sum() == pytest.approx(by_torch.sum(), rel=0.02)
    with pytest.raises(UserError, match=f"{kind} already"):
        open_network(read_model(tmp_path / "q.ckpt"), None, "int8" if kind == "int4" else "int4")


@compiled
def test_bfloat16_stays_what_it_is(tmp_path):
    model = make().bfloat16()
    save_model(tmp_path / "b.ckpt", model, ByteTokenizer())
    network = open_network(read_model(tmp_path / "b.ckpt"))
    ids = np.frombuffer(b"Shall I compare thee to a summer's day?", np.uint8)
    assert "bfloat16" in network.about
    assert network.nats(ids) == pytest.approx(TorchNetwork(model.float()).nats(ids), rel=1e-4)


def test_nats_are_those_of_the_model(path):
    model, ids = load_model(path)[0], np.frombuffer(b"Shall I compare thee to a summer's day?", np.uint8)
    with torch.no_grad():
        logits = model(torch.from_numpy(ids[None, :-1].astype(np.int64)))[0].double()
    expected = -logits.log_softmax(-1)[np.arange(len(ids) - 1), ids[1:].astype(np.int64)].numpy()
    for network in (TorchNetwork(model), open_network(read_model(path))):
        assert network.nats(ids) == pytest.approx(expected, rel=1e-4)


def test_what_the_engine_cannot_do_goes_through_torch(path, monkeypatch):
    monkeypatch.setenv("YINGGEM_ENGINE_KERNELS", "abacus")
    network = open_network(read_model(path))
    assert network.about.startswith("torch on cpu: ") and text(network) == text(TorchNetwork(load_model(path)[0]))


@pytest.mark.slow
@compiled
def test_a_large_model_asks_torch_for_an_accelerator_only_where_there_is_a_driver(path, tmp_path):
    (tmp_path / "nvidia0").touch()
    code = f"""
import sys
from yinggem.inference.networks import opening
from yinggem.inference.copying import TrainingText
from yinggem.inference.files.stored_model import read_model
stored, there = read_model({str(path)!r}), ({str(tmp_path / "nvidia[0-9]*")!r},)
for opening.LARGE, opening.DRIVERS, device in (10**9, there, None), (9, (), None), (9, there, "cpu"), (9, there, None):
    opening.open_network(stored, device)
    print("torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    found = done.stdout.split()
    assert found == ["False", "False", "False", "True"] or sys.platform == "darwin"


def test_a_device_that_is_not_there_is_named(path):
    with pytest.raises(UserError, match="abacus"):
        open_network(read_model(path), "abacus")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_no_numbers_are_refused_by_name(tmp_path, value):
    model = make()
    model.get_parameter("blocks.1.mlp.down.weight").data[3, 2] = value
    save_model(tmp_path / "a.ckpt", model, ByteTokenizer())
    with pytest.raises(UserError, match=r"diverged; use another checkpoint"):
        text(open_network(read_model(tmp_path / "a.ckpt")), 3)
    with pytest.raises(UserError, match="int8, int4, not 'int3'"):
        open_network(read_model(tmp_path / "a.ckpt"), "cpu", "int3")
