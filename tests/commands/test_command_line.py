"""What surrounds a run: the command line that continues, exit statuses, signals."""

import contextlib
import os
import shlex
import signal
import sys

import pytest
from running import SMALL, TEXT, ended, here, newest

from yinggem.commands import train
from yinggem.commands.run.train_process import how_to_continue
from yinggem.commands.run.train_words import TypedWords
from yinggem.common.errors import UserError
from yinggem.runs.overrides import quoted
from yinggem.runs.record import read_overrides, record_run


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["train.py"])
    return tmp_path


def started(place, *overrides: str):
    """The folder of a run that was started with these settings and killed before its first checkpoint."""
    folder = place / "outputs" / "2026-01-02" / "03-04-05"
    record_run(folder, overrides, "seed: 0\noptimizer:\n  lr: 0.5\ncallbacks:\n  samples: null\n")
    return folder


def hydra_sees(*words: str) -> list[str]:
    command = train.TrainCommand()
    command.words = TypedWords(words)
    return command._to_compose()[1]


@pytest.mark.parametrize("arguments", [[], ["model=base"], ["ckpt_path=null", "seed=1"], ["ckpt_path="]])
def test_a_command_that_continues_nothing_stays_as_it_is(arguments):
    assert hydra_sees(*arguments) == [word for word in arguments if not word.startswith("ckpt_path=")]


def test_a_run_is_continued_in_its_folder_with_what_is_recorded_and_the_words_typed_now(place):
    folder = started(place, "model=small", "optimizer.lr=0.02", "ckpt_path=older.ckpt")
    assert hydra_sees("ckpt_path=last", "optimizer.lr=0.01") == [
        "optimizer.lr=0.01", f"hydra.run.dir={quoted(folder.resolve())}"
    ]  # fmt: skip


def test_a_setting_that_is_said_again_counts_where_it_was_said_last(place):
    """The other processes of a run that is continued, too, say again what it was started with."""
    folder = started(place, "~callbacks.ema", "optimizer.lr=0.02", "optimizer.lr=0.01", "optimizer.lr=0.02")
    assert read_overrides(folder) == ["~callbacks.ema", "optimizer.lr=0.01", "optimizer.lr=0.02"]
    words = hydra_sees("ckpt_path=last", "~callbacks.ema", "~callbacks.samples", "+callbacks.samples=1", "+seed=3")
    assert words[:-1] == ["~callbacks.samples", "++callbacks.samples=1", "++seed=3"]


@pytest.mark.parametrize("wanted", ["last", "nowhere", "outputs"])
def test_nothing_to_continue_is_said(place, wanted):
    (place / "outputs").mkdir()
    with pytest.raises(UserError, match=r"no run|does not exist|not the folder"):
        hydra_sees(f"ckpt_path={wanted}")


def test_exit_statuses(capsys):
    def fail(error):
        def job():
            raise error

        return job

    assert ended(lambda: None) == 0
    assert ended(fail(UserError("Not like this."))) == 2
    assert capsys.readouterr().err == "error: Not like this.\n"
    assert ended(fail(RuntimeError("inside a library"))) == 2
    told = capsys.readouterr().err
    assert "inside a library" in told and told.count("\n") == 1 and "Traceback" not in told
    assert ended(fail(SystemExit(0))) == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_with_its_status_and_says_so(number, capsys):
    before = signal.getsignal(number)
    assert ended(lambda: os.kill(os.getpid(), number)) == 128 + number
    assert "Stopped before there was anything to save." in capsys.readouterr().err
    assert signal.getsignal(number) is before


def test_a_stop_that_a_library_caught_is_no_error(capsys):
    """Modules half imported, say, because of a bare `except` around an import."""

    def job():
        with contextlib.suppress(BaseException):
            os.kill(os.getpid(), signal.SIGTERM)
        raise TypeError("what was left half done")

    assert ended(job) == 128 + signal.SIGTERM
    told = capsys.readouterr().err
    assert "Stopped before there was anything to save." in told and "half done" not in told


def test_a_traceback_is_shown_on_request(monkeypatch, capsys):
    monkeypatch.setenv("YINGGEM_TRACEBACK", "1")
    assert ended(lambda: 1 // 0) == 2
    told = capsys.readouterr().err
    assert "Traceback" in told and told.endswith("YINGGEM_TRACEBACK=1 shows where).\n")


def test_the_environment_is_given_back(monkeypatch):
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    ended(lambda: None)
    assert os.environ["HYDRA_FULL_ERROR"] == "0"


def test_the_offered_command_is_one_for_the_shell(place):
    assert how_to_continue(None) == ""
    path = place / "it's here" / "last.ckpt"
    offered = how_to_continue(path).removeprefix(" Continue with: ")
    assert shlex.split(offered) == ["python", "train.py", f"ckpt_path={path}"]


def test_a_run_that_is_refused_leaves_nothing(place):
    (place / "own.txt").write_text(TEXT)
    here(*SMALL, "data.path=own.txt", "model.hidden_size=33").refused()
    assert sorted(path.name for path in place.iterdir()) in (["own.txt"], ["outputs", "own.txt"])
    assert not list(place.glob("outputs/*/*"))


def test_a_sweep_that_is_refused_leaves_nothing(place):
    """Or else ckpt_path=last would continue what never began, not the sweep before it."""
    here("-m", "optimizer=adafactor,nope").refused()
    assert not list(place.glob("outputs/*/*"))


def test_a_stop_that_was_swallowed_before_training_counts_when_it_begins(place, monkeypatch):
    """The same where nothing failed: it would be the user's only signal, and the run would go on for hours."""
    (place / "own.txt").write_text(TEXT)
    build = train.build

    def interrupted(*arguments):
        with contextlib.suppress(BaseException):
            os.kill(os.getpid(), signal.SIGTERM)
        return build(*arguments)

    monkeypatch.setattr(train, "build", interrupted)
    done = here(*SMALL, "data.path=own.txt")
    assert done.status == 128 + signal.SIGTERM and "Stopped after step 1. Continue with:" in done.err, done
    assert (newest() / "checkpoints/last.ckpt").is_file()


def test_a_name_with_a_line_break_is_quoted_on_one_line(place):
    sentence = here(*SMALL, "data.path=two\nlines\x1b[31m.txt").refused()
    assert r"two\nlines\x1b[31m.txt" in sentence
    assert r"a\nb" in here("callbacks='a\nb'").refused()


@pytest.mark.parametrize(("setting", "remedy"), [
    ("+model=small", "model=CHOICE"),
    ("+debug=anomaly", "debug=CHOICE"),
    ("++optimizer=adamw", "optimizer=CHOICE"),
    ("model=3", "model=small"),
    ("trainer.max_steps=${oc.env:NOT_SET_ANYWHERE}", "NOT_SET_ANYWHERE"),
    ("model.dropout=choice(0.1)", "-m"),
    ("+callbacks.mine=3", "callbacks.mine"),
])  # fmt: skip
def test_what_hydra_refuses_is_said_in_plain_words(setting, remedy, place):
    sentence = here(*SMALL, setting).refused()
    assert remedy in sentence and "YINGGEM_TRACEBACK" not in sentence, sentence
