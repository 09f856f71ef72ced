"""`import yinggem`: quick, and the same runs as from the command line."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from running import SMALL, TEXT, here, newest, same

import yinggem
from yinggem.inference.checkpoint import read_checkpoint

ROOT = Path(__file__).parent.parent
RUN = [*SMALL, "data.path=text.txt", "trainer.max_steps=4"]


def test_importing_the_package_loads_nothing_that_takes_time():
    code = "import yinggem, sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not set(done.stdout.split()) & {"torch", "numpy", "hydra", "lightning", "yaml", "argparse"}


@pytest.mark.slow
def test_training_from_python_is_training_from_the_command_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("text.txt").write_text(TEXT, encoding="utf-8")
    assert here(*RUN, "outputs=typed").status == 0
    typed = newest(tmp_path / "typed")
    run = yinggem.train([*RUN, "outputs=called"])
    assert run.folder.resolve() == newest(tmp_path / "called").resolve()
    assert run.figures == json.loads((run.folder / "result.json").read_text(encoding="utf-8"))
    one, other = (read_checkpoint(folder / "checkpoints" / "last.ckpt") for folder in (typed, run.folder))
    assert same(one["state_dict"], other["state_dict"])
    monkeypatch.setattr(sys, "argv", ["a notebook"])
    for place in (run.folder, run.folder / "checkpoints" / "last.ckpt", "called"):
        assert yinggem.load(place).config.vocab_size == 256
    with pytest.raises(yinggem.UserError, match="nowhere"):
        yinggem.load("nowhere")
    assert yinggem.load().tokenizer.name == "bpe", "where there is no run, the starter speaks"
    with pytest.raises(yinggem.UserError, match="did you mean optimizer"):
        yinggem.train([*RUN, "optimizer.lrr=1"])
    assert sys.argv == ["a notebook"]
