"""The model that ships: there before anything was trained, small, and without the text it was trained on."""

import os

import numpy as np
import prefork
import pytest
import torch
from running import ROOT

import yinggem
from yinggem.common.errors import UserError
from yinggem.inference.checkpoint import load_model, read_checkpoint, save_model
from yinggem.inference.files.stored_model import read_model
from yinggem.inference.starter import STARTER, memory_of, starter_path
from yinggem.model.config import ModelConfig
from yinggem.model.quantization import quantization_of
from yinggem.model.transformer import Transformer
from yinggem.runs.layout import find_model
from yinggem.text import assets
from yinggem.text.corpus import open_corpus
from yinggem.text.splitting import tokenize
from yinggem.text.tokenizer import ByteTokenizer


def test_it_is_small_of_8_bits_and_holds_no_text():
    path = starter_path()
    content = read_checkpoint(path)
    model, tokenizer = load_model(path)
    assert quantization_of(model) == "int8" and path.stat().st_size <= 5_000_000
    assert "memory" not in content and content["yinggem"]["data"]["source"] == "shakespeare"
    assert path.stat().st_size < 1.5 * model.config.parameters  # weights, and nothing of the size of a text
    text = "To be, or not to be: 水 \N{GRINNING FACE}"
    assert tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.slow
def test_its_memory_is_that_of_the_corpus_that_ships():
    stored = read_model(starter_path())
    memory, tokenizer = memory_of(stored), stored.tokenizer
    assert memory is not None
    assert np.array_equal(memory.ids, tokenize(open_corpus("shakespeare"), tokenizer).train[:])


@pytest.mark.slow
def test_it_speaks_where_there_is_no_run_and_says_so(tmp_path):
    done = prefork.run(
        [ROOT / "generate.py", "--prompt", "ROMEO.", "--max-new-tokens", "20"], tmp_path, dict(os.environ)
    )
    assert done.returncode == 0 and done.stdout.startswith("ROMEO."), done
    assert done.stderr.count("\n") == 1 and "this is the starter" in done.stderr and "python train.py" in done.stderr
    assert not list(tmp_path.iterdir())


def test_a_run_speaks_before_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_model() == (starter_path(), find_model()[1]) and "starter" in find_model()[1]
    kept = tmp_path / "outputs" / "2026-01-02" / "03-04-05" / "checkpoints" / "best.ckpt"
    kept.parent.mkdir(parents=True)
    save_model(kept, Transformer(ModelConfig(256, 16, 1, 2, intermediate_size=8)), ByteTokenizer())
    path, said = find_model()
    assert path.samefile(kept) and not said
    assert find_model(STARTER) == (starter_path(), "")  # it can still be named
    assert yinggem.load(kept).memory is None
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="No checkpoint was found in empty"):
        find_model("empty")


def test_a_damaged_one_is_refused_in_one_sentence(monkeypatch):
    monkeypatch.setitem(assets.SHA256, assets.STARTER, "0" * 64)
    with pytest.raises(UserError, match="is missing or damaged; reinstall the yinggem package"):
        starter_path()


def test_no_weight_is_out_of_the_ordinary():
    model, _ = load_model(starter_path())
    assert torch.isfinite(model(torch.arange(64)[None])).all()
