"""Asked to stop by a signal: a checkpoint of the step, a sentence with the command that continues, and the same end."""

import os
import random
import signal
import time

import pytest
import torch
from harness import differences
from running import soaked

from yinggem.runs.metrics_file import read_metrics

pytestmark = pytest.mark.slow


def command_of(process) -> list[str]:
    """The arguments of the command that the last line offers."""
    sentence = process.told().strip().splitlines()[-1]
    assert sentence.startswith("Stopped") and "Traceback" not in process.told(), process.told()
    offered = sentence.partition("Continue with: python train.py ")[2]
    assert offered, process.told()
    return offered.split()


def test_stopped_in_every_phase_the_offered_command_finishes_the_run(place, expected):
    """One run, stopped by turns with SIGTERM and Ctrl-C."""
    rng, process = random.Random(3), place.start(*place.arguments())
    phases = ["start-up", "step", "validation", "start-up", "checkpoint write", "other files", "shutdown"]
    for turn, phase in enumerate(phases):
        number = (signal.SIGTERM, signal.SIGINT)[turn % 2]
        seen = process.hit(phase, number, rng)
        assert seen or phase == "other files", (
            phase,
            process.told(),
        )  # a moment each: the run may end before one is seen
        if process.wait() in (0, -number) and phase in ("other files", "shutdown"):  # all was done already
            assert "Everything is in" in process.told(), process.told()
            process = place.resume()
            continue
        assert process.status == 128 + number, (phase, process.told())
        if "before there was anything to save" in process.told():  # the end of start-up already waits for a step
            assert phase == "start-up" and not list(place.outputs.glob("*/*/checkpoints/*"))
            process = place.resume()
            continue
        arguments = command_of(process)
        if "after step" in process.told():
            step = int(process.told().partition("Stopped after step ")[2].split(".")[0].replace(",", ""))
            last = torch.load(place.run_folder() / "checkpoints" / "last.ckpt", weights_only=True)
            assert last["global_step"] == step
            rows = (place.run_folder() / "metrics.csv").read_text().splitlines()
            assert rows[-1].startswith(f"{step},")
        else:
            assert phase in ("start-up", "shutdown")
        process = place.start(*arguments)
    assert process.wait() == 0, process.told()
    assert differences(expected, place.run_folder()) == []


def test_a_second_ctrl_c_leaves_at_once_and_harms_nothing(place, expected):
    """The first is given in a validation that takes many seconds; the second does not wait for its end."""
    text = place.folder / "long.txt"
    text.write_text(place.text.read_text() * 15)
    slow = [f"data.path={text}", "data.val_fraction=0.4", "data.eval_batch_size=1", "trainer.val_check_interval=80"]
    process = place.start(*place.arguments(*slow))
    assert process.hit("validation", signal.SIGINT, random.Random(0)), process.told()
    time.sleep(0.2)
    process.popen.send_signal(signal.SIGINT)
    assert process.wait() in (-signal.SIGINT, 128 + signal.SIGINT) and "Traceback" not in process.told()
    assert not any("val/loss" in row for row in read_metrics(place.run_folder() / "metrics.csv"))
    process = place.resume("data.eval_batch_size=256")
    assert process.wait() == 0, process.told()


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="no terminals that close here")
@pytest.mark.parametrize("ignored", soaked([False, True], [False]))
def test_a_closed_terminal_is_a_stop_unless_it_is_ignored(place, expected, ignored):
    """SIGHUP, which an ssh session sends as it ends; nohup lets a process ignore it."""
    handler = signal.SIG_IGN if ignored else signal.SIG_DFL
    process = place.start(*place.arguments(), handlers={signal.SIGHUP: handler})
    assert process.hit("step", signal.SIGHUP, random.Random(5))
    status = process.wait(120)
    assert status == (0 if ignored else 128 + signal.SIGHUP), process.told()
    if not ignored:
        process = place.start(*command_of(process))
        assert process.wait() == 0, process.told()
    assert differences(expected, place.run_folder()) == []


@pytest.mark.parametrize(
    "number", soaked([signal.SIGINT, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])], [signal.SIGINT])
)
def test_processes_that_load_data_are_silent_when_all_are_asked_to_stop(place, expected, number):
    """As a terminal does: Ctrl-C there goes to every process of the run."""
    process = place.start(*place.arguments("data.num_workers=2"), session=True)
    place.wait_for_checkpoint(process)
    os.killpg(process.popen.pid, number)
    assert process.wait(120) == 128 + number, process.told()
    assert process.told().count("Stopping after this step") == 1 and "Traceback" not in process.told(), process.told()
    process = place.start(*command_of(process))
    assert process.wait() == 0 and differences(expected, place.run_folder()) == [], process.told()
