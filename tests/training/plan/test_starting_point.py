"""init_from: the weights and the tokenizer of another run come along, and nothing else does."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from running import SMALL, TEXT, here, newest, same

from yinggem.commands.quantize import main as quantize
from yinggem.common.errors import UserError
from yinggem.inference.checkpoint import load_model, read_checkpoint
from yinggem.inference.files.stored_model import read_model
from yinggem.model.config import ModelConfig
from yinggem.model.transformer import Transformer
from yinggem.text.corpus import open_corpus
from yinggem.text.splitting import tokenize
from yinggem.text.tokenizer import ByteTokenizer
from yinggem.training.plan.starting_point import begin, find_start, freeze

QUIET = ["logger=csv", "callbacks=[checkpoint]"]
BPE = [*SMALL, *QUIET, "tokenizer=bpe", "tokenizer.vocab_size=300", "trainer.max_steps=4"]
OTHER = "A rose is a rose, said the poet; and the sea is the sea, said the rose.\n" * 60
NEW = [*SMALL, *QUIET, "data.path=other.txt", "init_from=first", "outputs=new"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with two texts and the run `first` on one of them."""
    place = tmp_path_factory.mktemp("trained")
    (place / "own.txt").write_text(TEXT)
    (place / "other.txt").write_text(OTHER)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        assert here(*BPE, "data.path=own.txt", "memory=ngram").status == 0
        newest().rename("first")
        for kind in ("int8", "int4"):
            quantize(["--checkpoint", "first", "--quantize", kind, "--output", f"{kind}.ckpt"])
    return place


@pytest.fixture
def place(trained, tmp_path, monkeypatch):
    shutil.copytree(trained, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    return tmp_path / "copy"


def weights(path: str | Path) -> dict[str, torch.Tensor]:
    return read_checkpoint(path)["state_dict"]


@pytest.mark.slow
def test_weights_and_tokenizer_come_along_and_the_rest_is_new(place):
    done = here(*NEW, "trainer.max_steps=2", "memory=ngram", "optimizer=adamw", "init_freeze=1")
    assert done.status == 0, done
    kept, old = newest("new") / "checkpoints" / "last.ckpt", Path("first/checkpoints/best.ckpt")
    (before, now), names = (weights(old), weights(kept)), [*weights(old)]
    frozen = {name for name in names if "embedding" in name or ".blocks.0." in name}
    assert {name for name in names if torch.equal(before[name], now[name])} == frozen
    state = read_checkpoint(kept)
    assert state["yinggem"]["tokenizer"] == read_checkpoint(old)["yinggem"]["tokenizer"]
    assert state["global_step"] == 2 and state["optimizer_settings"]["name"] == "AdamW"
    memory, tokenizer = read_model(kept).memory, load_model(kept)[1]
    assert memory is not None
    assert np.array_equal(memory.ids, tokenize(open_corpus("text", "other.txt"), tokenizer).train[:])


@pytest.mark.slow
def test_a_continued_run_ends_with_the_same_bits_also_where_it_came_from_is_gone(place):
    assert here(*NEW, "trainer.max_steps=6", "scheduler=constant").status == 0
    straight = weights(newest("new") / "checkpoints" / "last.ckpt")
    assert here(*NEW, "trainer.max_steps=3", "scheduler=constant", "outputs=twice").status == 0
    shutil.rmtree("first")
    done = here("ckpt_path=last", "outputs=twice", "trainer.max_steps=6")
    assert done.status == 0, done
    assert same(straight, weights(newest("twice") / "checkpoints" / "last.ckpt"))


@pytest.mark.slow
def test_a_continued_run_keeps_the_tokenizer_that_came_along(place):
    assert here(*NEW, "trainer.max_steps=1").status == 0
    refused = here("ckpt_path=last", "outputs=new", "trainer.max_steps=2", "tokenizer=char").refused()
    assert "tokenizer=char is another" in refused


@pytest.mark.slow
def test_a_model_of_pairs_goes_on_with_a_text_without_turns(place):
    rows = [{"prompt": f"{n} and one", "completion": str(n + 1)} for n in range(300)]
    Path("pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert here(*BPE, "data.path=pairs.jsonl", "data.format=pairs", "outputs=pairs").status == 0
    before = newest("pairs") / "checkpoints" / "last.ckpt"
    done = here(*NEW, "init_from=pairs", "trainer.max_steps=1", "optimizer.lr=1e-9")
    assert done.status == 0, done
    last = newest("new") / "checkpoints" / "last.ckpt"
    old, new = (load_model(path)[1] for path in (before, last))
    assert old.turn_id is not None and new.turn_id is None
    assert new.vocab_size == old.vocab_size - 1 and new.encode("a") == old.encode("a")
    kept = weights(last)
    for name, tensor in weights(before).items():
        assert torch.allclose(tensor[: len(kept[name])], kept[name], atol=1e-5), name


@pytest.mark.slow
def test_weights_of_8_bits_are_made_floats_and_it_is_said(place):
    done = here(*NEW, "init_from=int8.ckpt", "trainer.max_steps=1")
    assert done.status == 0 and "init_from=int8.ckpt are of 8 bits; they are made float32 again." in done.out, done
    start, coarse = find_start("int8.ckpt"), load_model("int8.ckpt")[0]
    assert start.model is not None and all(one.dtype == torch.float32 for one in start.model.parameters())
    assert torch.equal(start.model.embedding.weight, coarse.embedding.weight)
    tokens = torch.arange(20)[None]
    found, wanted = (
        torch.log_softmax(model(tokens), -1)
        for model in (start.model.eval(), load_model("first/checkpoints/best.ckpt")[0])
    )
    assert torch.allclose(found, wanted, atol=0.05)


@pytest.mark.slow
@pytest.mark.parametrize(("words", "reason"), [
    (["init_from=int4.ckpt"], "weights of 4 bits"),
    (["init_from=nowhere"], "init_from=nowhere does not exist"),
    (["init_from=other.txt"], "other.txt is not a file of torch.save"),
    (["tokenizer=byte"], "brings its tokenizer (bpe, 300 ids), and tokenizer=byte is another"),
    (["tokenizer=bpe", "tokenizer.vocab_size=400"], "is another"),
    (["model.hidden_size=64"], "they have model.hidden_size=32, not model.hidden_size=64"),
    (["model=base"], "leave model=base out"),
    (["init_freeze=3"], "init_freeze must be from 0 to 2 blocks"),
    (["init_freeze=[nothing.*]"], "init_freeze=nothing.* matches no weight; the names begin with embedding.weight"),
    (["init_freeze=['*']"], "leaves nothing to train"),
    (["init_from=null", "init_freeze=1"], "name that too, or leave it out"),
    (["ckpt_path=first"], "leave one out"),
], ids=lambda value: value[-1] if isinstance(value, list) else "")  # fmt: skip
def test_what_does_not_fit_is_refused_in_one_sentence(place, words, reason):
    assert reason in here(*NEW, *words).refused()
    assert not Path("new").exists() or not list(Path("new").glob("*/*"))


def test_what_is_typed_like_the_weights_is_no_contradiction(place):
    done = here(
        *NEW,
        "tokenizer=bpe",
        "tokenizer.vocab_size=300",
        "model.hidden_size=32",
        "model.dropout=0.5",
        "trainer.max_steps=1",
    )
    assert done.status == 0, done
    assert read_checkpoint(newest("new") / "checkpoints" / "last.ckpt")["yinggem"]["model_config"]["dropout"] == 0.5


@pytest.mark.parametrize(("what", "left"), [
    (None, {"embedding", "blocks.0", "blocks.1", "norm", "head"}),
    (0, {"embedding", "blocks.0", "blocks.1", "norm", "head"}),
    (1, {"blocks.1", "norm", "head"}), ("embedding.*", {"blocks.0", "blocks.1", "norm", "head"}),
    (["blocks.*", "norm.*"], {"embedding", "head"}),
])  # fmt: skip
def test_what_is_frozen(what, left):
    model = Transformer(ModelConfig(300, 16, 2, 2, intermediate_size=8))
    count = freeze(model, what)
    trained = {name: weights for name, weights in model.named_parameters() if weights.requires_grad}
    found = {".".join(name.split(".")[: 2 if name.startswith("blocks") else 1]) for name in trained}
    assert found == left and count == sum(weights.numel() for weights in trained.values())


def test_a_text_with_a_tokenizer_of_its_own_is_refused(place):
    start = find_start("first")
    with pytest.raises(UserError, match="made with another"):
        begin(Transformer(ModelConfig(256, 16, 2, 2)), ByteTokenizer(), start)
