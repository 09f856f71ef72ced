"""Documents are ranked by their own bits per byte, whatever batches their tokens come in."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from yinggem.commands import evaluate as command
from yinggem.inference.checkpoint import save_model
from yinggem.inference.counting import evaluate_with_counting
from yinggem.inference.document_scores import RANKED, SHORTEST, DocumentScores
from yinggem.inference.evaluation import evaluate
from yinggem.memory.ngram_memory import NgramMemory
from yinggem.model.config import ModelConfig
from yinggem.model.transformer import Transformer
from yinggem.text.reading import Reading
from yinggem.text.text_record import TextRecord
from yinggem.text.tokenizer import ByteTokenizer

END = 256


def tokenizer() -> ByteTokenizer:
    made = ByteTokenizer()
    made.mark_documents()
    return made


@settings(max_examples=30, deadline=None)
@given(
    documents=st.lists(st.text("ab é水\n", min_size=1, max_size=40), min_size=1, max_size=30),
    cuts=st.lists(st.integers(0, 2000), max_size=6),
    seed=st.integers(0, 99),
)
def test_they_are_those_of_a_plain_sort(documents, cuts, seed):
    scores, generator = DocumentScores(tokenizer()), np.random.default_rng(seed)
    ids = np.array([token for text in documents for token in (*text.encode(), END)])
    nats = generator.random(len(ids))
    for targets, values in zip(np.split(ids, sorted(cuts)), np.split(nats, sorted(cuts)), strict=True):
        scores.add(targets, values)
    expected, start = [], 0
    for number, text in enumerate(documents, 1):
        stop = start + len(text.encode()) + 1
        if stop - start - 1 >= SHORTEST:
            expected.append((float(nats[start:stop].sum()) / math.log(2) / (stop - start - 1), number))
        start = stop
    expected.sort()
    worst, best = scores.ends()
    count = min(RANKED, len(expected) // 2)
    assert scores.count == len(documents)
    assert [one.number for one in best] == [number for _, number in expected[:count]]
    assert [one.number for one in worst] == [number for _, number in expected[::-1][:count]]
    assert [one.bits_per_byte for one in worst] == pytest.approx([bits for bits, _ in expected[::-1][:count]])


def test_what_does_not_count_costs_nothing():
    scores = DocumentScores(tokenizer())
    ids = np.array([*b"What is two and two? Four, as everybody knows.", END] * 2)
    counted = np.tile(np.arange(len(ids) // 2) >= 20, 2)
    scores.add(ids, np.full(len(ids), math.log(2)), counted)
    (one,), _ = scores.ends()
    assert one.bytes == 26 and one.bits == pytest.approx(27) and one.text.startswith("What is two")


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A checkpoint that knows its text, which is documents, and the text."""
    folder = tmp_path_factory.mktemp("documents")
    poems = [f"{name} is in the garden of {name}, <b>alone</b>.\n" * 2 for name in ("Rose", "Oak", "Ivy", "Elm") * 10]
    (folder / "poems.txt").write_text("\n".join(poems), encoding="utf-8")
    model = Transformer(ModelConfig(257, 16, 1, 2, None, 24, attention_window=8, initializer_range=0.3)).eval()
    record = TextRecord("text", str(folder / "poems.txt"), 0.5, reading=Reading(documents="blank"))
    save_model(folder / "a.ckpt", model, tokenizer(), context_length=16, data=record.to_dict())
    return folder


def test_the_command_names_the_worst_and_the_best(place, tmp_path, capsys):
    page = str(tmp_path / "page.html")
    command.main(["--checkpoint", str(place / "a.ckpt"), "--html", page, "--split", "all"])
    lines = capsys.readouterr().out.splitlines()
    assert "documents      40" in lines and lines[-1].startswith("  best ") and "is in the garden" in lines[-1]
    text = Path(page).read_text(encoding="utf-8")
    assert "The most surprising documents" in text and "&lt;b&gt;alone" in text and "<b>" not in text
    command.main(["--checkpoint", str(place / "a.ckpt"), "--json", "--split", "all"])
    found = json.loads(capsys.readouterr().out)["documents"]
    assert len(found["worst"]) == len(found["best"]) == RANKED
    assert found["worst"][0]["bits_per_byte"] >= found["worst"][-1]["bits_per_byte"] > found["best"][0]["bits_per_byte"]


def test_hearing_changes_no_figure_and_the_documents_make_the_sum(model):
    memory = NgramMemory(np.frombuffer(b"the garden of Rose " * 50, np.uint8), 256)
    ids = np.frombuffer(b"Shall I compare thee to a summer's day?" * 3, np.uint8)
    sizes, told = np.ones(256, np.uint16), list[float]()
    plain = evaluate(model, ids, sizes, 16, 3)
    heard = evaluate(model, ids, sizes, 16, 3, lambda targets, nats, counted: told.append(float(nats.sum())))
    assert heard.nats == pytest.approx(plain.nats, rel=1e-6) and sum(told) == pytest.approx(heard.nats)
    told.clear()
    both = evaluate_with_counting(
        model, ids, sizes, 16, 3, memory, hear=lambda targets, nats, counted: told.append(float(nats.sum()))
    )
    assert sum(told) == pytest.approx(both.together.nats) and both.network.nats == pytest.approx(plain.nats, rel=1e-6)
