"""train.py, generate.py and evaluate through their command lines."""

import csv
import math
import random
import re
import shlex
import shutil
from collections import Counter
from pathlib import Path

import prefork
import pytest
import torch
from running import ROOT, SMALL, TEXT, elsewhere, here, newest, sized, soaked
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from yinggem.inference.checkpoint import load_model, read_checkpoint


def table(path: Path) -> list[dict[str, str]]:
    """A CSV file, read without our own reader."""
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "own.txt"
    path.write_text(TEXT, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def trained(text, tmp_path_factory):
    """A real run in a process of its own: what it said and the folder it was started in."""
    folder = tmp_path_factory.mktemp("trained")
    done = elsewhere(*SMALL, f"data.path={text}", cwd=folder)
    assert done.status == 0, done
    return done, folder


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Commands in this process run in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
def test_the_run_says_where_things_are_and_what_comes_next(trained):
    done, _ = trained
    assert "bits per byte" in done.out and "python generate.py" in done.out and "tensorboard --logdir" in done.out
    assert not re.search("warning|deprecat", done.out + done.err, re.IGNORECASE), done
    assert done.err == ""


@pytest.mark.slow
def test_the_run_folder_is_complete(trained):
    run = newest(trained[1] / "outputs")
    assert re.fullmatch(r"\d{4}-\d\d-\d\d/\d\d-\d\d-\d\d.*", str(run.relative_to(trained[1] / "outputs")))
    names = {path.name for path in run.iterdir()}
    assert names >= {".hydra", "checkpoints", "metrics.csv", "loss_curve.png", "samples.txt"}
    assert {path.name for path in (run / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}
    assert (run / "loss_curve.png").read_bytes().startswith(b"\x89PNG")
    assert {path.name for path in (run / ".hydra").iterdir()} >= {"config.yaml", "overrides.yaml"}
    for path in (run / "checkpoints").iterdir():
        assert read_checkpoint(path)["global_step"] > 0
        load_model(path)


@pytest.mark.slow
def test_csv_and_tensorboard_hold_the_same_figures(trained):
    run = newest(trained[1] / "outputs")
    rows = table(run / "metrics.csv")
    events = EventAccumulator(str(run), size_guidance={"scalars": 0}).Reload()
    names = {"train/loss", "val/loss", "val/perplexity", "val/bits_per_byte", "lr", "grad_norm", "epoch"}
    assert names <= set(rows[0]) and names <= set(events.Tags()["scalars"])
    for name in names:
        told = {int(row["step"]): float(row[name]) for row in rows if row[name]}
        shown = {event.step: event.value for event in events.Scalars(name)}
        assert told.keys() == shown.keys() and told == pytest.approx(shown, rel=1e-5), name
    assert any("sample" in name for name in events.Tags()["tensors"])


@pytest.mark.slow
def test_generate_and_evaluate_take_the_newest_run(trained):
    for command in (["generate.py", "--max-new-tokens", "5"], ["-m", "yinggem", "evaluate"]):
        arguments = [str(ROOT / command[0]), *command[1:]] if command[0].endswith(".py") else command
        done = prefork.run(arguments, trained[1])
        assert done.returncode == 0 and done.stdout.strip(), done


@pytest.mark.slow
def test_a_finished_run_says_so_and_is_made_longer(trained, text):
    folder = trained[1]
    again = elsewhere("ckpt_path=last", cwd=folder)
    assert again.status == 0 and "finished already" in again.out, again
    longer = elsewhere("ckpt_path=last", "trainer.max_steps=25", cwd=folder)
    assert longer.status == 0 and len(list((folder / "outputs").glob("*/*/checkpoints"))) == 1, longer
    assert read_checkpoint(newest(folder / "outputs") / "checkpoints" / "last.ckpt")["global_step"] == 25


@pytest.mark.slow
@pytest.mark.parametrize(("part", "damaged"), [
    ("optimizer_states", [{}]), ("loops", {}), ("global_step", "7"), ("TextDataModule", 5),
])  # fmt: skip
def test_a_checkpoint_that_lacks_what_training_needs_is_named(trained, text, place, part, damaged):
    state = read_checkpoint(newest(trained[1] / "outputs") / "checkpoints" / "last.ckpt")
    torch.save(state | {part: damaged}, "odd.ckpt")
    sentence = here(*SMALL, f"data.path={text}", "trainer.max_steps=40", "ckpt_path=odd.ckpt").refused()
    assert f"{place / 'odd.ckpt'} cannot be continued from" in sentence


@pytest.mark.slow
@pytest.mark.soak  # tests/commands/test_options.py has the same of debug=overfit
def test_one_batch_is_learnt_by_heart(text, place):
    options = [
        "experiment=overfit",
        "data=text",
        f"data.path={text}",
        "trainer.accelerator=cpu",
        "trainer.max_steps=160",
    ]
    done = here(*options, "data.context_length=32", "data.batch_size=2", "callbacks.samples.max_new_tokens=5")
    assert done.status == 0, done
    losses = [float(row["train/loss"]) for row in table(newest() / "metrics.csv") if row["train/loss"]]
    assert losses[-1] < 0.1 and 10 * losses[-1] < losses[0]


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", soaked(["muon", "adafactor"], ["muon"]))
def test_a_shortened_speedrun_learns_more_than_how_often_a_character_comes(optimizer, text, place):
    settings = ["experiment=speedrun_char", "data=text", f"data.path={text}", f"optimizer={optimizer}"]
    done = here(*settings, "trainer.accelerator=cpu", "trainer.max_steps=40", "trainer.val_check_interval=40")
    assert done.status == 0, done
    (loss,) = (float(row["val/loss"]) for row in table(newest() / "metrics.csv") if row["val/loss"])
    held_out = TEXT[len(TEXT) * 9 // 10 :]
    shares = [count / len(held_out) for count in Counter(held_out).values()]
    assert loss < -sum(share * math.log(share) for share in shares) - 0.3


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("c++"), reason="torch.compile needs a C++ compiler on the CPU")
def test_a_compiled_run_has_the_losses_of_any_other_and_is_continued(text, place):
    """Windows longer than a chunk of attention, samples past the window and a short last window of validation."""
    settings = [*SMALL, f"data.path={text}", "data.context_length=200", "callbacks.samples.max_new_tokens=30",
                "model.num_hidden_layers=1"]  # fmt: skip
    straight = sized([], [["outputs=compiled", "compile=true"]])  # whose bits the continued one has
    for options in (["outputs=plain"], ["outputs=more", "compile=true"], *straight):
        steps = "trainer.max_steps=10" if options[0] == "outputs=more" else "trainer.max_steps=20"
        done = elsewhere(*settings, *options, "scheduler=constant", steps, cwd=place)
        assert done.status == 0 and not done.err, done
    done = elsewhere("outputs=more", "ckpt_path=last", "trainer.max_steps=20", cwd=place)
    assert done.status == 0 and not done.err, done
    plain, more, *compiled = (table(newest(run) / "metrics.csv") for run in ["plain", "more", *sized([], ["compiled"])])
    for name in ("train/loss", "val/loss", "grad_norm"):
        figures = [[float(row[name]) for row in rows if row[name]] for rows in (plain, more, *compiled)]
        assert figures[1] == pytest.approx(figures[0], rel=1e-4), name
        assert all(of_one == figures[1] for of_one in figures[2:]), name
    states = [read_checkpoint(newest(run) / "checkpoints/last.ckpt")["state_dict"] for run in ("plain", "more")]
    assert states[0].keys() == states[1].keys()


@pytest.mark.slow
def test_a_sweep_runs_every_combination(text, place):
    done = here(
        "-m",
        *SMALL,
        f"data.path={text}",
        "optimizer.lr=0.01,0.03",
        "model.num_hidden_layers=1,2",
        "trainer.max_steps=5",
    )
    assert done.status == 0, done
    (results,) = place.glob("outputs/*/*/results.csv")
    losses = [float(row["val/loss"]) for row in table(results)]
    assert len(losses) == 4 and losses == sorted(losses)
    assert (results.parent / "comparison.png").exists()


@pytest.mark.slow
@pytest.mark.parametrize(("settings", "words"), [
    (["data.path=nowhere.txt"], ["nowhere.txt"]),
    (["data.path=empty.txt"], ["empty.txt", "empty"]),
    (["data.path=short.txt"], ["short.txt"]),
    (["data.path=latin.txt"], ["latin.txt", "UTF-8", "2"]),
    (["model=bse"], ["bse", "base"]),
    (["modle=base"], ["modle", "model"]),
    (["optimizer.lrr=1"], ["lrr", "optimizer.lr"]),
    (["model.hidden_size=30", "model.num_attention_heads=4"], ["hidden_size"]),
    (["model.hidden_size=6", "model.num_attention_heads=2"], ["head"]),
    (["model.attention_window=0"], ["attention_window"]),
    (["optimizer.lr=-1"], ["optimizer"]),
    (["trainer.precision=16"], ["16"]),
    (["trainer.precision=8"], ["precision"]),
    (["ckpt_path=last"], ["no run"]),
    (["ckpt_path=nowhere.ckpt"], ["nowhere.ckpt"]),
    (["model.hidden_size=1000000000"], ["hidden_size"]),
    (["model.hidden_size=100000", "model.num_hidden_layers=100"], ["parameters"]),
    (["model.num_hidden_layers=-1"], ["num_hidden_layers"]),
    (["data.batch_size=0"], ["batch_size"]),
    (["optimizer.lr=0.1,0.2"], ["-m"]),
    (["data.path=a b.txt"], ["a b.txt"]),
    (["seed=-1"], ["seed"]),
    (["data=shakespeare"], ["data=text", "own.txt"]),
    (["attention_backend=bandit"], ["bandit", "banded"]),
    (["outputs="], ["outputs=PATH"]),
    (["outputs=null"], ["outputs=PATH"]),
    (["data.cache_dir="], ["data.cache_dir=PATH"]),
    (["trainer.max_steps=0"], ["max_steps"]),
    (["callbacks.early_stopping.patience=-1"], ["patience"]),
    (["callbacks.samples.top_p=0"], ["top_p"]),
    (["callbacks.samples.max_new_tokens=0"], ["callbacks.samples.max_new_tokens"]),
    (["callbacks.samples.prompt='~'", "tokenizer=char"], ["'~'"]),
], ids=lambda value: ",".join(value) if isinstance(value, list) else None)  # fmt: skip
def test_bad_input_is_one_sentence(settings, words, text, place):
    (place / "empty.txt").touch()
    (place / "short.txt").write_text("ab")
    (place / "latin.txt").write_bytes(b"ab\xe9cd" * 200)
    ours = [] if any(setting.startswith("data.path=") for setting in settings) else [f"data.path={text}"]
    sentence = here(*SMALL, *ours, *settings).refused()
    assert all(word in sentence for word in words), sentence
    assert not list(place.glob("outputs/*/*/checkpoints"))
    assert {path.name for path in place.iterdir()} <= {"empty.txt", "short.txt", "latin.txt", "outputs"}


def test_an_unwritable_folder_is_one_sentence(text, place):
    (place / "file").touch()
    assert "file" in here(*SMALL, f"data.path={text}", "outputs=file/below").refused()


@pytest.mark.slow
def test_the_command_that_comes_next_takes_this_run_and_a_prompt_it_can_read(place, monkeypatch):
    (place / "poem.txt").write_text("the sea is wide\n" * 500)
    options = [*SMALL, "data.path=poem.txt", "tokenizer=char", "trainer.max_steps=2", "outputs='my runs'"]
    patient = "callbacks.early_stopping.patience=0"  # as Lightning counts it: one check has to come first
    done = here(*options, patient)
    assert done.status == 0, done
    words = next(shlex.split(line) for line in done.out.splitlines() if line.startswith("Next:"))
    assert words[:4] == ["Next:", "python", "generate.py", "--checkpoint"] and words[5:] == ["--prompt", "the sea is"]
    assert load_model(words[4])[1].vocab_size == len(set("the sea is wide\n"))
    assert "--logdir 'my runs/" in done.out


@pytest.mark.slow
def test_a_gpu_that_is_not_there_is_one_sentence(text, place, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    for settings in (["trainer=gpu", "trainer.accelerator=gpu"], ["trainer.accelerator=cuda"]):
        assert "trainer.accelerator=cpu" in here(*SMALL, f"data.path={text}", *settings).refused()


def test_a_run_without_time_for_a_step_says_so(text, place):
    done = here(*SMALL, f"data.path={text}", "trainer.max_time=00:00:00:00")
    assert done.status == 0 and "No step was taken" in done.out, done


@pytest.mark.slow
@pytest.mark.parametrize(
    "setting", ["max_new_tokens=0", "max_new_tokens=1e309", "temperature=-1", "top_p=2", "seed=1.5", "prompt=é"]
)
def test_a_sample_that_cannot_be_drawn_is_refused_before_the_first_step(setting, text, place):
    settings = [*SMALL, f"data.path={text}", "tokenizer=char", f"callbacks.samples.{setting.replace('é', repr('é'))}"]
    sentence = here(*settings).refused()
    assert "callbacks.samples" in sentence or "é" in sentence
    assert not list(place.glob("outputs/*/*/metrics.csv"))


@pytest.mark.slow
@pytest.mark.parametrize("setting", ["callbacks=null", "~callbacks", "~logger", "logger=null", "callbacks=[checkpoint]",
                                     "callbacks.samples.prompt=5"])  # fmt: skip
def test_callbacks_and_loggers_can_be_left_out_whatever_the_experiment_sets_for_them(setting, text, place):
    done = here(*SMALL, f"data.path={text}", setting, "trainer.max_steps=2")
    assert done.status == 0 and not done.err, done


@pytest.mark.slow
def test_a_text_that_has_changed_since_the_checkpoint_is_said(place):
    poem = place / "poem.txt"
    poem.write_text("the sea is wide\n" * 500)
    done = here(*SMALL, "data.path=poem.txt", "trainer.max_steps=2")
    again = here("ckpt_path=last", "trainer.max_steps=3")
    assert done.status == again.status == 0 and not again.err, again
    poem.write_text("the sea is deep\n" * 500)
    with pytest.warns(UserWarning, match="poem.txt or its split has changed"):
        assert here("ckpt_path=last", "trainer.max_steps=4").status == 0


@pytest.mark.slow
@pytest.mark.parametrize("group", ["experiment", "sweep", "launcher", "profiler"])
def test_an_optional_group_can_be_left_out(group, place):
    chosen, without = here("debug=overfit", "--cfg", "job"), here("debug=overfit", f"{group}=null", "--cfg", "job")
    assert without.status == 0 and chosen.out == without.out, without


@pytest.mark.slow
def test_help_and_configuration_are_shown_without_a_trace(place):
    for argument in (["--help"], ["--cfg", "job"]):
        done = here(*argument)
        assert done.status == 0 and "optimizer" in done.out and not list(place.iterdir())


@pytest.mark.slow
def test_the_same_seed_gives_the_same_bits_and_another_does_not(text, place):
    """Two commands one after the other in one process, dropout on, and a third."""

    def bits(seed: int, outputs: str) -> list[bytes]:
        done = here(*SMALL, f"data.path={text}", "model.dropout=0.1", f"seed={seed}", f"outputs={outputs}")
        assert done.status == 0, done
        state = read_checkpoint(newest(outputs) / "checkpoints" / "last.ckpt")["state_dict"]
        return [weights.numpy().tobytes() for weights in state.values()]

    first = bits(5, "one")
    assert first == bits(5, "two") and first != bits(6, "three")


@pytest.mark.slow
def test_learning_by_heart_is_said_with_what_helps(place):
    """Letters at random: whatever training finds in them, it is not in the rest."""
    (place / "random.txt").write_text("".join(random.Random(0).choices("abcdefghij \n", k=3000)))
    settings = [*SMALL, "data.path=random.txt", "trainer.max_steps=200", "trainer.val_check_interval=20"]
    done = here(*settings, "callbacks=[checkpoint]", "logger=csv")
    assert done.status == 0, done
    (step,) = re.findall(
        r"^From step (\d+) on it learnt the training text by heart: .*experiment=finetune", done.out, re.MULTILINE
    )
    assert int(step) < 200 and f"trainer.max_steps={step}" in done.out and f"at step {step}." in done.out
