"""The evaluate command against one prediction at a time."""

import json
import os
import re
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO

import numpy as np
import prefork
import pytest
import torch
from references import nats_one_by_one
from running import SMALL, TEXT, here, newest

import yinggem
from yinggem.commands import evaluate as command
from yinggem.commands import quantize
from yinggem.common.command_line import run
from yinggem.common.errors import UserError
from yinggem.inference.checkpoint import read_checkpoint, save_model, write_checkpoint
from yinggem.model.config import ModelConfig
from yinggem.model.transformer import Transformer
from yinggem.runs.result import read_result
from yinggem.text.text_record import TextRecord
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
    command = ["-m", "yinggem", "evaluate"]
    out = prefork.run([*command, *arguments]).stdout
    figures, ids = json.loads(out), np.frombuffer(text.encode(), np.uint8)[int(len(text) * 0.9) :]
    assert figures["loss"] * (len(ids) - 1) == pytest.approx(nats_one_by_one(model, ids, 8), rel=1e-5)
    assert figures["bits_per_byte"] == pytest.approx(figures["loss"] / np.log(2))
    assert figures["perplexity"] == pytest.approx(np.exp(figures["loss"]))
    for wrong in (["--data", "nothing.txt"], ["--val-fraction", "2"], ["--val-fraction", "x"], ["--batch-size", "0"]):
        done = prefork.run([*command, *arguments, *wrong])
        assert done.returncode == 2 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1


def test_a_page_shows_what_the_score_says(model, tmp_path, monkeypatch):
    """Of the whole text that is named, whatever it holds; the figures that are printed stay those of the command."""
    monkeypatch.chdir(tmp_path)
    text = "<b>Shall I</b> compare & thee\nto a summer's day?\n" * 3
    (tmp_path / "poem.txt").write_text(text)
    save_model("a.ckpt", model, ByteTokenizer(), context_length=8)
    with redirect_stdout(StringIO()) as out, redirect_stderr(StringIO()):
        command.main(["--checkpoint", "a.ckpt", "--data", "poem.txt", "--html", "page.html"])
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    bits = [float(found) for found in re.findall(r'title="([\d.]+) bits"', page)]
    score = yinggem.load("a.ckpt").score(text)
    assert len(bits) == len(text) and bits[1:] == pytest.approx([t.nats / np.log(2) for t in score.tokens], abs=0.051)
    assert f"{score.bits_per_byte:.4f} bits per byte" in page and "<b>" not in page
    assert "poem.txt, all of it" in out.getvalue() and f"{score.bits_per_byte:.4f}" in out.getvalue()
    with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
        command.main(["--checkpoint", "a.ckpt", "--data", "poem.txt", "--html", "page.html"])  # its own page, again
    with pytest.raises(UserError, match=r"poem\.txt exists already, and `yinggem evaluate` did not write it"):
        command.main(["--checkpoint", "a.ckpt", "--data", "poem.txt", "--html", "poem.txt"])
    assert (tmp_path / "poem.txt").read_text() == text


# --- a checkpoint knows its text -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of a run on an own text with an own split, and the text."""
    place = tmp_path_factory.mktemp("trained")
    (place / "own.txt").write_text(TEXT)
    before = os.getcwd()
    os.chdir(place)
    try:
        done = here(*SMALL, "data.path=own.txt", "data.val_fraction=0.2", "data.split_by=tokens",
                    "data.eval_context_length=48", "trainer.max_steps=10")  # fmt: skip
        assert done.status == 0, done
        return newest(), place / "own.txt"
    finally:
        os.chdir(before)


@pytest.fixture
def text(trained):
    """The text of the run, which is there again after a test."""
    path = trained[1]
    yield path
    path.write_text(TEXT)


def evaluated(*arguments: object) -> tuple[int, str, str]:
    out, err = StringIO(), StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        status = run(lambda: command.main([str(argument) for argument in arguments]))
    return status, out.getvalue(), err.getvalue()


@pytest.mark.slow
def test_the_text_the_split_and_the_context_are_those_of_the_run(trained, text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the run was started from another folder
    checkpoint = trained[0] / "checkpoints" / "best.ckpt"
    status, out, err = evaluated("--checkpoint", checkpoint, "--json")
    assert (status, err) == (0, "")
    found, result = json.loads(out), read_result(trained[0])
    assert found["loss"] == pytest.approx(result["loss"], rel=1e-6)
    assert (found["data"], found["val_fraction"], found["split_by"]) == (str(text), 0.2, "tokens")
    assert (found["context_length"], found["notes"]) == (48, [])
    status, out, err = evaluated("--checkpoint", checkpoint)
    assert out.startswith(f"text           {text}, val: the last 20 % of its tokens\n") and not err


@pytest.mark.slow
@pytest.mark.parametrize(("option", "value", "name"), [
    ("--val-fraction", 0.5, "val_fraction"), ("--split-by", "characters", "split_by"), ("--split", "train", "split"),
    ("--context-length", 7, "context_length"),
])  # fmt: skip
def test_what_is_typed_wins(trained, text, option, value, name):
    checkpoint = trained[0] / "checkpoints" / "best.ckpt"
    status, out, err = evaluated("--checkpoint", checkpoint, "--json", option, value)
    usual = json.loads(evaluated("--checkpoint", checkpoint, "--json")[1])
    assert (status, err) == (0, "")
    assert json.loads(out)[name] == value and usual[name] != value
    assert (json.loads(out)["loss"] == usual["loss"]) == (name == "split_by")  # a character of this text is a token


@pytest.mark.slow
def test_a_text_that_is_typed_wins(trained, text, tmp_path):
    (tmp_path / "other.txt").write_text(TEXT.upper())
    status, out, err = evaluated(
        "--checkpoint", trained[0] / "checkpoints" / "best.ckpt", "--data", tmp_path / "other.txt"
    )
    assert (status, err) == (0, "") and out.startswith(f"text           {tmp_path / 'other.txt'}, val: the last 20 %")


@pytest.mark.parametrize("change", ["gone", "changed", "not UTF-8", "empty"])
def test_a_text_that_is_gone_or_changed_is_said(trained, text, change):
    if change == "gone":
        text.unlink()
    else:
        text.write_bytes({"changed": TEXT[:-1].encode(), "not UTF-8": b"\xff", "empty": b""}[change])
    status, out, err = evaluated("--checkpoint", trained[0] / "checkpoints" / "best.ckpt", "--json")
    assert err.count("\n") == 1 and str(text) in err
    if change == "changed":
        assert status == 0 and "has changed since the run" in err and json.loads(out)["notes"]
    else:
        assert status == 2 and "--data" in err and not out


def test_a_quantized_checkpoint_knows_it_too(trained, text, tmp_path):
    checkpoint, small = trained[0] / "checkpoints" / "best.ckpt", tmp_path / "small.ckpt"
    with redirect_stdout(StringIO()):
        quantize.main(["--checkpoint", str(checkpoint), "--output", str(small)])
    status, out, err = evaluated("--checkpoint", small, "--json")
    assert (status, err) == (0, "")
    usual = json.loads(evaluated("--checkpoint", checkpoint, "--json")[1])
    assert json.loads(out)["loss"] == pytest.approx(usual["loss"], abs=0.05)
    assert json.loads(out).keys() == usual.keys() and json.loads(out)["data"] == str(text)


def test_an_earlier_checkpoint_says_that_its_text_is_not_known(capsys):
    """It is then the text that ships, which the first line of the figures names."""
    text = command.text_to_evaluate(command.evaluation_parser().parse_args([]), {"context_length": 8})
    assert text == TextRecord("shakespeare")
    assert command.described_split(text, "val") == "val: the last 10 % of its characters"
    assert capsys.readouterr().err == "note: This checkpoint does not say which text it was trained on.\n"


@pytest.mark.parametrize("damage", [
    None, "own.txt", {}, {"source": 3}, {"path": b"x"}, {"val_fraction": "0.1"}, {"val_fraction": 2.0},
    {"val_fraction": float("nan")}, {"fingerprint": None}, {"source": "milton"}, {"split_by": "verses"},
], ids=str)  # fmt: skip
def test_a_damaged_record_is_one_sentence(trained, text, tmp_path, damage):
    content = read_checkpoint(trained[0] / "checkpoints" / "best.ckpt")
    record = content["yinggem"]["data"] | damage if damage and isinstance(damage, dict) else damage
    write_checkpoint(tmp_path / "a.ckpt", content | {"yinggem": content["yinggem"] | {"data": record}})
    status, out, err = evaluated("--checkpoint", tmp_path / "a.ckpt")
    assert status == 2 and err.startswith("error: ") and err.count("\n") == 1 and not out, err


def test_the_path_of_a_record_can_be_used_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert TextRecord("text", "a/*.txt").to_dict()["path"] == str(tmp_path / "a" / "*.txt")
    assert TextRecord("streaming", "s3://bucket/shards").to_dict()["path"] == "s3://bucket/shards"
    assert TextRecord("shakespeare").to_dict()["path"] is None
    record = TextRecord("text", os.fsdecode(b"/caf\xe9.txt"), 0, "tokens", "ab")
    assert TextRecord.from_dict(record.to_dict()) == record
