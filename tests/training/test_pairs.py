"""Pairs: the loss counts completions and their ends alone, in any window; the checkpoint answers a prompt."""

import json
import random

import numpy as np
import pytest
import torch

import yinggem
from yinggem.commands.train import train
from yinggem.inference.evaluation import evaluate
from yinggem.model.config import ModelConfig
from yinggem.model.transformer import Transformer
from yinggem.text.tokenizer import ByteTokenizer
from yinggem.text.tokens.windows import counted_targets, cut_windows, evaluation_windows
from yinggem.training.datamodule import TextDataModule


@pytest.fixture
def words(tmp_path):
    """Pairs of a word and the word backwards."""
    generator = random.Random(0)
    made = sorted({"".join(generator.choices("abcdef", k=generator.randint(1, 9))) for _ in range(60)})
    rows = [{"prompt": word, "completion": word[::-1]} for word in made]
    (tmp_path / "words.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return rows


@pytest.fixture
def data(tmp_path, words):
    path = str(tmp_path / "words.jsonl")
    module = TextDataModule(ByteTokenizer(), "text", path, 16, 4, cache_dir=str(tmp_path / "c"), format="pairs")
    module.setup()
    return module


@pytest.mark.parametrize("length", [1, 3, 16, 1000])
def test_completions_and_their_ends_are_counted_once_and_nothing_else(data, words, length):
    ids, counted = data.split.train, []
    for window in evaluation_windows(len(ids), length):
        rows = cut_windows(ids, [window])
        marks = counted_targets(ids, [window], rows)
        counted += rows[:, 1:][marks].tolist()
    expected = []
    for row in words:
        expected += [*row["completion"].encode(), data.tokenizer.end_id]
    assert counted == expected[: len(counted)] and len(counted) > len(ids) / 4
    assert counted[-1] == data.tokenizer.end_id


def test_the_look_back_may_be_long(data, monkeypatch):
    ids = data.split.train
    windows = evaluation_windows(len(ids), 16)[:20]
    rows = cut_windows(ids, windows)
    expected = counted_targets(ids, windows, rows)
    assert expected is not None
    monkeypatch.setattr("yinggem.text.tokens.windows.LOOK_BACK", 1)
    found = counted_targets(ids, windows, rows)
    assert found is not None and np.array_equal(found, expected)


def test_the_loss_is_the_mean_over_what_is_counted(data):
    torch.manual_seed(0)
    model = Transformer(ModelConfig(258, 16, 1, 2, intermediate_size=16))
    inputs, targets, counted = next(iter(data.train_dataloader()))
    by_token = -model(inputs).log_softmax(-1).gather(2, targets[..., None])[..., 0]
    torch.testing.assert_close(model.loss(inputs, targets, counted=counted), by_token[counted].mean())
    nothing = model.loss(inputs, targets, counted=torch.zeros_like(counted))
    nothing.backward()
    assert nothing == 0 and all((p.grad == 0).all() for p in model.parameters() if p.grad is not None)


def test_an_evaluation_has_the_nats_and_bytes_of_completions(data, words):
    model = Transformer(ModelConfig(258, 16, 1, 2, intermediate_size=16, initializer_range=0.5)).eval()
    found = evaluate(model, data.split.val, data.split.token_bytes, 16)
    held_out = words[-(data.split.val[:] == data.tokenizer.turn_id).sum() :]
    assert found.bytes == sum(len(row["completion"]) for row in held_out)
    assert found.tokens == found.bytes + len(held_out)


@pytest.mark.slow
def test_a_model_that_learnt_pairs_answers_and_stops(tmp_path, words):
    """One letter for another, which takes seconds to learn; the template is in the checkpoint."""
    letters = "abcdefghijklmnop"
    rows = [{"prompt": a + b, "completion": (b + a).upper()} for a in letters for b in letters]
    random.Random(0).shuffle(rows)
    (tmp_path / "swap.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    run = train(
        [
            "experiment=smoke", "data=text", f"data.path={tmp_path / 'swap.jsonl'}", "data.format=pairs",
            "data.template='<{prompt}>'", "data.mask_documents=true", f"outputs={tmp_path / 'outputs'}",
            "model.hidden_size=64", "model.attention_window=null", "trainer.max_steps=200",
            "trainer.val_check_interval=200", "optimizer=muon_short", "data.val_fraction=0.1",
        ]
    )  # fmt: skip
    sample = (run.folder / "samples.txt").read_text().splitlines()
    assert sample[1] in {row["prompt"] for row in rows}  # one of its own, and the answer below
    model = yinggem.load(run.folder, device="cpu")
    answers = [model.generate(row["prompt"], max_new_tokens=9, temperature=0.0) for row in rows[-20:]]
    assert sum(answer == row["completion"] for answer, row in zip(answers, rows[-20:], strict=True)) >= 17
