"""yinggem inspect: a table, a page, and one sentence for what cannot be shown."""

import json

import pytest
import torch

from yinggem.commands import inspect as command
from yinggem.common.errors import UserError
from yinggem.inference.checkpoint import save_model
from yinggem.model.attention_weights import attention_weights
from yinggem.model.config import ModelConfig
from yinggem.model.transformer import Transformer
from yinggem.text.tokenizer import ByteTokenizer


@pytest.fixture
def model(tmp_path, monkeypatch) -> Transformer:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    model = Transformer(ModelConfig(256, 16, 3, 2, None, 24, attention_window=5, initializer_range=0.3)).eval()
    save_model("a.ckpt", model, ByteTokenizer())
    return model


def test_the_table_says_how_far_back_each_head_looks(model, tmp_path, capsys):
    command.main(["--checkpoint", "a.ckpt", "--prompt", "Shall I compare", "--html", "page.html"])
    told = capsys.readouterr()
    assert "15 tokens, a window of 5" in told.out and told.err == "Written: page.html\n"
    assert [line[:7] for line in told.out.splitlines()[2:]] == ["layer 1", "layer 2", "layer 3"]
    assert "How a.ckpt reads" in (tmp_path / "page.html").read_text(encoding="utf-8")
    command.main(["--checkpoint", "a.ckpt", "--prompt", "Shall I compare", "--json"])
    found = json.loads(capsys.readouterr().out)["mean_distance"]
    back = torch.arange(15)[:, None] - torch.arange(15)
    for layer, weights in zip(found, attention_weights(model, torch.tensor([[*b"Shall I compare"]])), strict=True):
        assert layer == pytest.approx((weights[0] * back).sum(-1).mean(-1).tolist(), abs=1e-3)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [(["--prompt", "x" * 600], "600 tokens"), (["--prompt", ""], "empty"), (["--prompt-file", "no.txt"], "no.txt"),
     (["--prompt", "x", "--html", "no/page.html"], "no/page.html")],
)  # fmt: skip
def test_what_cannot_be_shown_is_said_in_one_sentence(model, words, sentence):
    with pytest.raises(UserError, match=sentence):
        command.main(["--checkpoint", "a.ckpt", *words])
