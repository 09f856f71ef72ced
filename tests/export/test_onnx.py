"""The network in onnxruntime past the window: our logits, greedy text through its cache, padding on the left."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from exported import GREEDY, LENGTH, PROMPT, greedy, source_of

from yinggem.model.transformer import Transformer

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

from yinggem.export import onnx  # noqa: E402

pytestmark = pytest.mark.slow


class Runner:
    """What a program does with such a file."""

    def __init__(self, folder: Path, model: Transformer) -> None:
        self.session = onnxruntime.InferenceSession(folder / "onnx" / "model.onnx", providers=["CPUExecutionProvider"])
        self.config = model.config
        self.names = [f"past_key_values.{layer}.{kind}" for layer in range(2) for kind in ("key", "value")]

    def empty(self, batch: int) -> list[Any]:
        return [np.zeros((batch, self.config.key_value_heads, 0, self.config.head_size), np.float32)] * len(self.names)

    def __call__(self, tokens: np.ndarray, past: list[Any], mask: np.ndarray | None = None) -> tuple[Any, list[Any]]:
        batch, total = len(tokens), past[0].shape[2] + tokens.shape[1]
        mask = np.ones((batch, total), np.int64) if mask is None else mask
        positions = np.maximum(mask.cumsum(1) - 1, 0)[:, -tokens.shape[1] :]
        feed = {"input_ids": tokens, "attention_mask": mask, "position_ids": positions}
        logits, *present = self.session.run(None, feed | dict(zip(self.names, past, strict=True)))
        return logits, present


# torch's exporter takes 10 s for any model and 3 s for every layer: everything at once, and the rest now and then.
OTHER = {"bias": False, "norm": "layer", "activation": "swiglu", "attention_window": None}


@pytest.fixture(scope="module", params=[{"qk_norm": True}, pytest.param(OTHER, marks=pytest.mark.soak)], ids=str)
def pair(request, tmp_path_factory) -> tuple[Runner, Transformer]:
    source, folder = source_of(num_hidden_layers=2, **request.param), tmp_path_factory.mktemp("onnx") / "a"
    onnx.export(source, folder)
    return Runner(folder, source.model), source.model


@torch.inference_mode()
def test_names_and_logits_past_the_window(pair):
    run, model = pair
    assert [put.name for put in run.session.get_inputs()] == ["input_ids", "attention_mask", "position_ids", *run.names]
    presents = [name.replace("past_key_values", "present") for name in run.names]
    assert [put.name for put in run.session.get_outputs()] == ["logits", *presents]
    tokens = torch.randint(256, (3, LENGTH))
    logits, _ = run(tokens.numpy(), run.empty(3))
    torch.testing.assert_close(torch.from_numpy(logits), model(tokens), rtol=0, atol=1e-4)


def test_the_cache_writes_the_same_greedy_text_past_the_window(pair):
    run, model = pair
    prompt = torch.randint(256, (2, PROMPT))
    logits, past = run(prompt.numpy(), run.empty(2))
    written = []
    for _ in range(GREEDY):
        written.append(logits[:, -1:].argmax(-1))
        logits, past = run(written[-1], past)
    assert np.array_equal(np.concatenate(written, 1), greedy(model, prompt).numpy())


@torch.inference_mode()
def test_padding_on_the_left_changes_nothing(pair):
    run, model = pair
    tokens, padding = torch.randint(256, (1, 60)), 45  # longer than the window: some rows see padding alone
    both = torch.cat((torch.zeros(1, padding, dtype=torch.long), tokens), 1).numpy()
    mask = (np.arange(padding + 60) >= padding).astype(np.int64)[None]
    logits, _ = run(both, run.empty(1), mask)
    torch.testing.assert_close(torch.from_numpy(logits[:, padding:]), model(tokens), rtol=0, atol=1e-4)
