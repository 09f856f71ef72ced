"""What a text chooses: something that fits for every text, less for what is typed, and nothing where all is said."""

import json
import random
import re
from dataclasses import replace

import pytest
import yaml
from running import here, newest
from writings import ARABIC, CHINESE, CODE, EMOJI, GERMAN, WORKS

from yinggem.text.text_look import TextLook
from yinggem.text.tokenizer import BPETokenizer
from yinggem.training.plan.text_recipe import choice_for, choose

ENGLISH = TextLook(bytes=50_000, files=1, characters=70, bytes_per_character=1.0, english=0.3, scripts=("Latin",),
                   vocabulary=9000)  # fmt: skip
OTHER = replace(ENGLISH, english=0.02)
WIDE = replace(OTHER, bytes_per_character=2.9, scripts=("Cjk",))
SIZES = [100, 5_000, 20_000, 100_000, 300_000, 1_000_000, 5_000_000, 10**11]
DATA = ["data=text", "data.path=own.txt"]


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def settings(words) -> dict[str, str]:
    return dict(word.split("=", 1) for word in words)


@pytest.mark.parametrize("look", [ENGLISH, OTHER, WIDE], ids=["English", "other", "wide"])
def test_there_is_something_for_every_size_and_less_text_is_trained_on_for_less_long(look):
    chosen = [settings(choice_for(replace(look, bytes=size), []).words) for size in SIZES]
    assert all(one["memory"] == "ngram" for one in chosen)
    steps = [int(one.get("trainer.max_steps", 1 << 30)) for one in chosen]
    dropouts = [float(one.get("model.dropout", 0)) for one in chosen]
    assert steps == sorted(steps) and dropouts == sorted(dropouts, reverse=True)
    assert ("experiment" in chosen[2]) == look.is_english


@pytest.mark.parametrize("typed", [
    ["tokenizer=char"], ["tokenizer=bpe", "tokenizer.vocab_size=300"], ["model.hidden_size=64"], ["model.dropout=0.4"],
    ["trainer.max_steps=7"], ["memory=none"], ["data.context_length=33"], ["optimizer=adamw"],
    ["callbacks=[checkpoint]"], ["~callbacks.early_stopping"],
], ids=lambda words: words[0])  # fmt: skip
@pytest.mark.parametrize("look", [ENGLISH, OTHER], ids=["English", "other"])
def test_what_is_typed_is_not_chosen(look, typed):
    words = settings(choice_for(look, typed).words)
    names = {word.lstrip("~").partition("=")[0] for word in typed}
    assert not any(word == name or word.startswith(f"{name}.") for word in words for name in names)
    if names & {"tokenizer", "model.hidden_size"}:
        assert "experiment" not in words  # the starter has its own
    if "tokenizer" in names:
        assert not any(name.startswith("tokenizer") for name in words)


def test_a_text_of_few_words_has_each_as_a_token(place):
    """Number words, over and over: no 512 tokens can be learnt from them."""
    kinds = [" " + a + b for a in ["eins", "zwei", "drei", "vier", "acht"] for b in ("zehn", "hundert", "tausend", "")]
    (place / "own.txt").write_text("".join(random.Random(0).choices(kinds, k=20_000)))
    choice = choose([*DATA, "data.path=own.txt"])
    chosen = settings(choice.words)
    assert chosen["tokenizer.at_most"] == "true"
    tokenizer = BPETokenizer(int(chosen["tokenizer.vocab_size"]), at_most=True)
    tokenizer.fit(lambda: [(place / "own.txt").read_text()[:-20_000]])
    assert set(kinds) - {""} <= {token.decode(errors="replace") for token in tokenizer.tokens}
    (place / "own.txt").write_text("la la la " * 20_000)
    assert "tokenizer=byte" in choose([*DATA, "data.path=own.txt"]).words


def test_large_texts_of_few_words_take_as_many_tokens_as_they_have(place):
    numbers = random.Random(0)
    (place / "own.txt").write_text("".join(f"{numbers.randrange(500)}\n" for _ in range(500_000)))  # 1.9 MB
    chosen = settings(choose([*DATA, "data.path=own.txt"]).words)
    assert (chosen["tokenizer"], chosen["tokenizer.at_most"]) == ("bpe", "true") and "trainer.max_steps" not in chosen
    (place / "own.txt").write_text("x y\n" * 500_000)
    assert settings(choose([*DATA, "data.path=own.txt"]).words) == {"tokenizer": "byte", "memory": "ngram"}
    (place / "own.txt").write_text("".join(f"{numbers.randrange(10**6)} " for _ in range(300_000)))
    assert settings(choose([*DATA, "data.path=own.txt"]).words) == {"memory": "ngram"}


def test_pairs_in_few_words_are_a_small_language_of_their_own(place):
    rows = [{"prompt": f"{a} plus {b}", "completion": f"{a + b}"} for a in range(30) for b in range(30)]
    (place / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = settings(choose(["data=text", "data.path=sums.jsonl", "data.format=pairs"]).words)
    assert words["memory"] == "none" and words["data.mask_documents"] == "true" and "experiment" not in words
    assert settings(choose(["data=text", "data.path=sums.jsonl", "data.field=prompt"]).words)["memory"] == "ngram"
    verse = [{"prompt": text, "completion": text} for text in WORKS[:60_000].split("\n\n") if text.strip()]
    (place / "verse.jsonl").write_text("".join(json.dumps(row) + "\n" for row in verse))
    assert "experiment" in settings(choose(["data=text", "data.path=verse.jsonl", "data.format=pairs"]).words)


@pytest.mark.parametrize("typed", [
    ["model=tiny"], ["experiment=smoke"], ["init_from=starter"], ["ckpt_path=last"], ["data=shakespeare"],
    ["data=tinyshakespeare"], ["data.path=null"], ["data.path=nowhere.txt"],
], ids=lambda words: words[0])  # fmt: skip
def test_nothing_is_chosen_where_words_say_it_or_there_is_no_text_to_look_at(place, typed):
    (place / "own.txt").write_text(WORKS[:5000])
    assert not choose([*DATA, *typed]).words
    assert choose([*DATA, "experiment=null"]).words


@pytest.mark.slow
@pytest.mark.parametrize("text", [WORKS[:30_000], GERMAN * 9, CHINESE * 9, ARABIC * 9, CODE * 9, EMOJI * 20],
                         ids=["English", "German", "Chinese", "Arabic", "code", "emoji"])  # fmt: skip
def test_the_choice_composes_in_any_script_and_is_shown(place, text):
    (place / "own.txt").write_text(text, encoding="utf-8")
    done = here(*DATA, "--cfg", "job")
    assert done.status == 0, done
    shown, words = yaml.safe_load(done.out), settings(choose([*DATA, "data.path=own.txt"]).words)
    assert shown["model"]["dropout"] == float(words["model.dropout"]) and shown["memory"] is not None
    assert (shown["init_from"] == "starter") == ("experiment" in words)


@pytest.mark.slow
def test_the_choice_is_said_recorded_and_kept_when_the_run_goes_on(place):
    (place / "own.txt").write_text(CHINESE * 2, encoding="utf-8")
    small = ["model.hidden_size=16", "model.num_hidden_layers=1", "trainer.max_steps=2", "trainer.val_check_interval=2"]
    quick = ["logger=csv", "callbacks=[checkpoint]", "trainer.accelerator=cpu", "data.eval_context_length=64"]
    done = here(*DATA, *small, *quick)
    assert done.status == 0, done
    (line,) = re.findall("^Recipe .*", done.out, re.MULTILINE)
    assert "Cjk" in line and "tokenizer=byte" in line and "trainer.max_steps" not in line
    (prompt,) = re.findall("--prompt (.*)", done.out)
    assert prompt.strip("'")[:3] in CHINESE
    words = yaml.safe_load((newest() / ".hydra" / "overrides.yaml").read_text())
    assert "tokenizer=byte" in words and words[-len(quick) :] == quick
    before = yaml.safe_load((newest() / ".hydra" / "config.yaml").read_text())
    (place / "own.txt").write_text(WORKS[:9000])  # by now another recipe would be chosen
    again = yaml.safe_load(here("ckpt_path=last", "--cfg", "job").out)
    assert {name: again[name] for name in ("tokenizer", "model", "data")} == {
        name: before[name] for name in ("tokenizer", "model", "data")
    }


@pytest.mark.slow
def test_every_job_of_a_sweep_looks_at_its_own_text(place):
    (place / "a.txt").write_text(CHINESE, encoding="utf-8")
    (place / "b.txt").write_text(GERMAN * 5, encoding="utf-8")
    small = ["model.hidden_size=16", "model.num_hidden_layers=1", "trainer.max_steps=1", "data.eval_context_length=64"]
    done = here("-m", "data=text", "data.path=a.txt,b.txt", *small, "logger=csv", "callbacks=[checkpoint]")
    assert done.status == 0, done
    lines = re.findall("^Recipe .*", done.out, re.MULTILINE)
    assert len(lines) == 2 and "Cjk" in lines[0] and "Latin" in lines[1]
