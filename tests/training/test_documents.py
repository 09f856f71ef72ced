"""A run on documents: what it refuses, what it keeps, and that the test split is measured once, at the end."""

import json
import random
from pathlib import Path
from typing import Any

import pytest

import yinggem
from yinggem.commands import evaluate
from yinggem.commands.train import train
from yinggem.common.errors import UserError
from yinggem.inference.checkpoint import read_checkpoint
from yinggem.runs.comparison import find_runs, rows
from yinggem.text.tokenizer import ByteTokenizer
from yinggem.training.datamodule import TextDataModule


@pytest.fixture
def poems(tmp_path):
    """Forty poems, of which the last is also the first."""
    generator = random.Random(0)
    (tmp_path / "poems").mkdir()
    for number in range(40):
        words = generator.choices(["the sea", "a stone", "my love", "falls", "sings"], k=generator.randint(9, 30))
        (tmp_path / "poems" / f"{number:02}.txt").write_text(" ".join(words) + "\n")
    (tmp_path / "poems" / "39.txt").write_text((tmp_path / "poems" / "00.txt").read_text())
    return tmp_path / "poems"


def data(path: Path, length: int = 32, **options: Any) -> TextDataModule:
    return TextDataModule(ByteTokenizer(), "text", str(path), length, cache_dir=str(path.parent / "c"), **options)


def test_duplicates_are_named_when_a_run_starts(poems):
    with pytest.warns(UserWarning, match=r"1 of \d+ documents outside .* stand in it .*39\.txt = .*00\.txt"):
        data(poems, documents="files").setup()


def test_a_text_that_is_too_short_says_how_long_one_would_do(tmp_path):
    (tmp_path / "x.txt").write_text("A line of forty-one letters, all in all.\n")
    with pytest.raises(UserError, match=r"about [0-9,]+ characters instead of 41 would be enough") as caught:
        data(tmp_path / "x.txt", 1000).setup()
    enough = int(str(caught.value).split("about ")[1].split()[0].replace(",", ""))
    (tmp_path / "x.txt").write_text("x" * enough)
    data(tmp_path / "x.txt", 1000).setup()


def test_a_text_of_white_space_is_refused(tmp_path):
    (tmp_path / "x.txt").write_text(" \n\n\t " * 200)
    with pytest.raises(UserError, match="holds white space alone"):
        data(tmp_path / "x.txt").setup()


@pytest.mark.parametrize("how", [{"val_fraction": 0.0001}, {"test_fraction": 0.0001}])
def test_a_part_with_nothing_in_it_is_refused(tmp_path, how):
    (tmp_path / "x.txt").write_text("x" * 300)
    with pytest.raises(UserError, match=f"{next(iter(how))[:3]}.* split of .* is empty; raise data.{next(iter(how))}"):
        data(tmp_path / "x.txt", **how).setup()


def test_masks_need_documents(poems):
    with pytest.raises(UserError, match=r"set data\.documents as well"):
        data(poems, mask_documents=True)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*documents outside the training split")
def test_a_run_on_documents_from_end_to_end(tmp_path, poems, monkeypatch, capsys):
    settings = ["experiment=smoke", "data=text", f"data.path={poems}", "data.documents=files", "memory=ngram"]
    settings += ["data.test_fraction=0.2", "data.mask_documents=true", f"outputs={tmp_path / 'outputs'}"]
    run = train([*settings, "callbacks=default", "trainer.limit_val_batches=1.0"])
    assert "On the test split, which nothing was chosen by" in capsys.readouterr().out
    result = json.loads((run.folder / "result.json").read_text())
    content = read_checkpoint(run.folder / "checkpoints" / "best.ckpt")["yinggem"]
    assert content["model_config"]["document_end"] == 256 and content["tokenizer"] == {
        "name": "byte",
        "documents": True,
    }
    for split, expected in (("test", result["test/bits_per_byte"]), ("val", result["bits_per_byte"])):
        evaluate.main(["--checkpoint", str(run.folder), "--split", split, "--device", "cpu", "--json"])
        found = json.loads(capsys.readouterr().out)
        assert found["bits_per_byte"] == pytest.approx(expected, rel=1e-5)
    (row,) = rows(find_runs([tmp_path / "outputs"]))
    assert row["test/bits_per_byte"] == result["test/bits_per_byte"] != row["bits_per_byte"]
    model = yinggem.load(run.folder, device="cpu")
    endless = model.generate("the sea", max_new_tokens=30, seed=1, ignore_end=True)
    assert endless.startswith(model.generate("the sea", max_new_tokens=30, seed=1))
