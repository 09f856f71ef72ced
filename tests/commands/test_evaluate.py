"""The evaluate command against one prediction at a time."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from references import nats_one_by_one

from yinggem.inference.checkpoint import save_model
from yinggem.model.config import ModelConfig
from yinggem.model.transformer import Transformer
from yinggem.text.tokenizer import ByteTokenizer


@pytest.fixture(scope="module")
def model() -> Transformer:
    torch.manual_seed(0)
    return Transformer(ModelConfig(256, 16, 2, 2, None, 24, attention_window=5, initializer_range=0.3)).eval()


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
