"""yinggem copies, and the options of yinggem generate that are about copies."""

import io
import json
import re
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest
import torch

from yinggem.__main__ import main
from yinggem.inference.checkpoint import save_model
from yinggem.memory.copies import find_copies
from yinggem.memory.ngram_memory import NgramMemory
from yinggem.memory.text_stats import text_stats
from yinggem.model.config import ModelConfig
from yinggem.model.transformer import Transformer
from yinggem.text.tokenizer import ByteTokenizer

TEXT = "ROMEO:\nBut soft, what light through yonder window breaks?\nIt is the east, and Juliet is the sun.\n"
PROMPT = "But soft, what light through yonder window"


def run(*arguments: object) -> tuple[int, str, str]:
    """The program in this process: status, output, complaint."""
    out, err = io.StringIO(), io.StringIO()
    try:
        with redirect_stdout(out), redirect_stderr(err):
            status = main([str(argument) for argument in arguments])
    except SystemExit as ended:
        status = int(ended.code or 0)
    return status, out.getvalue(), err.getvalue()


def copying_model() -> Transformer:
    """A model of bytes that knows TEXT by heart."""
    torch.manual_seed(0)
    model = Transformer(ModelConfig(256, 48, 2, 4, None, 48)).eval()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    ids = torch.tensor([ByteTokenizer().encode(TEXT[TEXT.index("But") :])])
    for _ in range(1000):
        optimizer.zero_grad()
        loss = model.loss(ids[:, :-1], ids[:, 1:])
        loss.backward()
        optimizer.step()
        if loss < 0.05:
            return model
    raise AssertionError("it did not learn the text")


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory) -> dict[str, Path]:
    folder, model, tokenizer = tmp_path_factory.mktemp("checkpoints"), copying_model(), ByteTokenizer()
    paths = {name: folder / f"{name}.ckpt" for name in ("memory", "alone")}
    save_model(paths["memory"], model, tokenizer, NgramMemory(tokenizer.encode_array(TEXT), tokenizer.vocab_size))
    save_model(paths["alone"], model, tokenizer)
    return paths


@pytest.fixture
def text(tmp_path) -> Path:
    path = tmp_path / "some text.txt"
    path.write_bytes(b"Hello.\r\n\r\nHe said: But soft,\r\nwhat light through yonder  window breaks? Ah.\r\n")
    return path


def assert_one_sentence(done: tuple[int, str, str], match: str) -> None:
    status, out, err = done
    assert status == 2 and err.startswith("error: ") and err.count("\n") == 1 and err.endswith(".\n"), err
    assert match in err and not out


@pytest.mark.slow
def test_a_copy_is_named_with_its_line(checkpoints, text):
    status, out, err = run("copies", text, "--checkpoint", checkpoints["memory"])
    assert (status, err) == (0, "")
    first, second = out.splitlines()
    assert first.startswith(f"{text}: 1 copy of at least 8 words; the longest has 8 words; ")
    assert second.startswith("line 3, 8 words: But soft, what light") and second.endswith("yonder window breaks?")
    assert run("copies", text, "--checkpoint", checkpoints["memory"], "--least", 9)[1].count("\n") == 1


def test_the_record_has_places_in_the_text(checkpoints, text):
    record = json.loads(run("copies", text, "--json", "--checkpoint", checkpoints["memory"])[1])
    read = text.read_text()
    (copy,) = record.pop("copies")
    assert read[copy["start"] : copy["end"]] == copy["text"] and copy["text"].split() == TEXT.split()[1:9]
    assert (copy["line"], copy["words"]) == (3, 8)
    assert record == {"file": str(text), "longest_copy": 8, "share": 1 / 5, "least": "8 words"}
    letters = json.loads(run("copies", text, "--json", "--least", "10c", "--checkpoint", checkpoints["memory"])[1])
    assert [copy["characters"] for copy in letters["copies"]] == [23, 15] or letters["longest_copy"] >= 10


def test_the_training_text_may_be_any_text(text, tmp_path):
    (tmp_path / "poem.txt").write_text(TEXT)
    assert "1 copy" in run("copies", text, "--data", tmp_path / "poem.txt")[1]
    assert "1 copy" in run("copies", text, "--data", tmp_path)[1].replace("2 copies", "1 copy")  # itself is in there


@pytest.mark.slow
def test_the_works_hold_what_everybody_quotes(text):
    out = run("copies", text, "--data", "shakespeare", "--least", 5)[1]
    assert "what light through yonder window breaks?" in out


@pytest.mark.parametrize("content", [b"", b"\xef\xbb\xbf", b"\n\n", b"one"])
def test_a_file_with_nothing_to_copy_has_no_copies(checkpoints, tmp_path, content):
    (tmp_path / "a.txt").write_bytes(content)
    status, out, err = run("copies", tmp_path / "a.txt", "--checkpoint", checkpoints["memory"])
    assert (status, err) == (0, "") and "0 copies of at least 8 words; the longest has 0 words; 0.0%" in out


def test_what_cannot_be_compared_is_one_sentence(checkpoints, text, tmp_path):
    (tmp_path / "bad.txt").write_bytes(b"abc\xff")
    memory = ["--checkpoint", checkpoints["memory"]]
    for arguments, match in (
        ([tmp_path / "bad.txt", *memory], "byte 3"),
        ([tmp_path / "none.txt", *memory], "none.txt"),
        ([text, "--data", tmp_path / "none.txt"], "none.txt"),
        ([text, "--data", ""], "FILE"),
        ([text, "--checkpoint", checkpoints["alone"]], "train a model with memory=ngram"),
        ([text, "--checkpoint", tmp_path / "none.ckpt"], "none.ckpt"),
        ([text, *memory, "--data", "shakespeare"], "not allowed with"),
        ([text, *memory, "--least", "0"], "--least"),
        ([text, *memory, "--least", "x"], "--least"),
        ([], "FILE"),
    ):
        assert_one_sentence(run("copies", *arguments), match)


def generated(checkpoint: Path, *arguments: object) -> tuple[int, str, str]:
    return run("generate", "--checkpoint", checkpoint, "--temperature", 0, "--max-new-tokens", 30, *arguments)


def test_copies_are_marked(checkpoints):
    _, plain, _ = generated(checkpoints["memory"], "--prompt", PROMPT)
    _, marked, err = generated(checkpoints["memory"], "--prompt", PROMPT, "--mark-copies")
    assert not err and "⟦" in marked and re.sub("[⟦⟧]", "", marked) == plain
    assert marked.startswith(f"{PROMPT}⟦ breaks?")  # the copy began in the prompt


def test_the_record_has_the_copies_and_the_figures(checkpoints):
    _, out, err = generated(checkpoints["memory"], "--prompt", PROMPT, "--mark-copies", "--stats", "--json")
    record = json.loads(out)
    found = find_copies(PROMPT + record["text"], [TEXT], after=len(PROMPT)).behind(len(PROMPT))
    assert not err and record["copies"] == [copy.to_dict() for copy in found.stretches] and record["copies"]
    assert record["copies"][0]["start"] == 0 and record["copies"][0]["words"] == record["longest_copy"] > 8
    assert record["stats"] == text_stats(record["text"], [TEXT], PROMPT).to_dict()
    assert record["stats"]["longest_copy"] == record["longest_copy"]
    assert record["finish_reason"] == "length" and "max_copy" not in record["settings"]


def test_figures_follow_every_sample(checkpoints):
    _, plain, _ = generated(checkpoints["memory"], "--prompt", PROMPT, "--num-samples", 2)
    _, out, err = generated(checkpoints["memory"], "--prompt", PROMPT, "--num-samples", 2, "--stats")
    lines = [line for line in out.splitlines() if "the longest copy has" in line]
    assert not err and len(lines) == 2 and all(out.count(line) for line in lines)
    assert "\n".join(line for line in out.splitlines() if "the longest copy has" not in line) == plain.rstrip("\n")


@pytest.mark.parametrize(("limit", "words"), [("3", 3), ("8", 8), ("20c", 6)])
def test_a_limit_keeps_the_longest_copy_short(checkpoints, limit, words):
    arguments = ["--prompt", PROMPT, "--max-copy", limit, "--stats", "--json"]
    record = json.loads(generated(checkpoints["memory"], *arguments)[1])
    assert record["stats"]["longest_copy"] <= words and record["settings"]["max_copy"] == limit
    free = json.loads(generated(checkpoints["memory"], "--prompt", PROMPT, "--stats", "--json")[1])
    assert free["stats"]["longest_copy"] > 8


@pytest.mark.parametrize("option", [["--max-copy", "8"], ["--mark-copies"], ["--stats"]])
def test_a_checkpoint_without_its_text_is_one_sentence(checkpoints, option):
    assert_one_sentence(generated(checkpoints["alone"], *option), "does not hold its training text")


@pytest.mark.parametrize("value", ["0", "-1", "c", "8w", "1.5", "9" * 30, "", "²"])
def test_a_bad_limit_is_one_sentence(checkpoints, value):
    assert_one_sentence(generated(checkpoints["memory"], f"--max-copy={value}"), "--max-copy")
