"""Evaluation against one prediction at a time, straight from the definition."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch

from yinggem.common.errors import UserError
from yinggem.inference.checkpoint import save_model
from yinggem.inference.evaluation import evaluate
from yinggem.model.config import ModelConfig
from yinggem.model.transformer import Transformer
from yinggem.text.tokenizer import ByteTokenizer


@pytest.fixture(scope="module")
def model() -> Transformer:
    torch.manual_seed(0)
    return Transformer(ModelConfig(256, 16, 2, 2, None, 24, attention_window=5, initializer_range=0.3)).eval()


def nats_one_by_one(model: Transformer, ids: np.ndarray, context: int) -> float:
    """Token t is predicted from the tokens of its window before it; windows start at 0, C, 2C ..."""
    total = 0.0
    with torch.no_grad():
        for t in range(1, len(ids)):
            start = (t - 1) // context * context
            logits = model(torch.from_numpy(ids[start:t].astype(np.int64))[None])[0, -1]
            total -= logits.double().log_softmax(-1)[int(ids[t])].item()
    return total


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("length", [2, 7, 8, 9, 16, 17, 24, 25, 60])
def test_every_token_after_the_first_is_predicted_once(model, length, batch):
    ids = np.random.default_rng(length).integers(0, 256, length).astype(np.uint16)
    token_bytes = np.arange(256, dtype=np.uint16)
    found = evaluate(model, ids, token_bytes, context_length=8, batch_size=batch)
    assert (found.tokens, found.bytes) == (length - 1, int(ids[1:].sum()))
    assert found.nats == pytest.approx(nats_one_by_one(model, ids, 8), rel=1e-5)


@pytest.mark.parametrize("length", [0, 1])
def test_a_text_without_a_second_token_is_refused(model, length):
    with pytest.raises(UserError, match="nothing to predict"):
        evaluate(model, np.zeros(length, np.uint16), np.ones(256, np.uint16), 8)


@pytest.mark.slow
def test_the_command_prints_the_figures_of_the_validation_split(model, tmp_path, monkeypatch):
    monkeypatch.setenv("YINGGEM_CACHE", str(tmp_path / "cache"))
    text = "Shall I compare thee to a summer's day?\n" * 30
    (tmp_path / "text.txt").write_text(text)
    save_model(tmp_path / "a.ckpt", model, ByteTokenizer(), context_length=8)
    arguments = ["--checkpoint", str(tmp_path / "a.ckpt"), "--data", str(tmp_path / "text.txt"), "--json"]
    command = [sys.executable, "-m", "yinggem", "evaluate"]
    out = subprocess.run([*command, *arguments], capture_output=True, text=True, check=True).stdout
    figures, ids = json.loads(out), np.frombuffer(text.encode(), np.uint8)[int(len(text) * 0.9) :]
    assert figures["loss"] * (len(ids) - 1) == pytest.approx(nats_one_by_one(model, ids, 8), rel=1e-5)
    assert figures["bits_per_byte"] == pytest.approx(figures["loss"] / np.log(2))
    assert figures["perplexity"] == pytest.approx(np.exp(figures["loss"]))
    for wrong in (["--data", "nothing.txt"], ["--val-fraction", "2"], ["--val-fraction", "x"], ["--batch-size", "0"]):
        done = subprocess.run([*command, *arguments, *wrong], capture_output=True, text=True)
        assert done.returncode == 2 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
