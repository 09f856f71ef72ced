"""Runs and checkpoints that earlier versions wrote are loaded, generated from, evaluated and continued."""

import json
import shutil
from pathlib import Path

import prefork
import pytest
import torch
from running import ROOT, here

from yinggem.inference.checkpoint import load_model, read_checkpoint
from yinggem.model.config import ModelConfig

EARLIER = Path(__file__).parents[1] / "data" / "earlier"
FINISHED = EARLIER / "finished" / "checkpoints" / "best.ckpt"


@pytest.mark.slow
def test_an_earlier_checkpoint_generates(tmp_path):
    command = [ROOT / "generate.py", "--checkpoint", FINISHED, "--prompt", "The ", "--json"]
    done = prefork.run([*command, "--max-new-tokens", "40"], tmp_path)
    assert done.returncode == 0 and len(json.loads(done.stdout)["tokens"]) == 40, done


@pytest.mark.slow
def test_an_earlier_checkpoint_has_the_figure_that_its_version_measured(tmp_path):
    command = ["-m", "yinggem", "evaluate", "--checkpoint", FINISHED, "--json", "--batch-size", "64"]
    done = prefork.run(command, ROOT)
    recorded = json.loads((EARLIER / "finished" / "result.json").read_text())
    found = json.loads(done.stdout)
    assert (found["tokens"], found["bytes"]) == (recorded["tokens"], recorded["bytes"])
    assert found["loss"] == pytest.approx(recorded["loss"], rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    "moved", ["outputs/2026-11-26/03-39-39", pytest.param("elsewhere/poems", marks=pytest.mark.soak)]
)
def test_an_earlier_stopped_run_goes_on(tmp_path, monkeypatch, moved):
    monkeypatch.chdir(tmp_path)
    run = tmp_path / moved
    shutil.copytree(EARLIER / "stopped", run)
    done = here(f"ckpt_path={moved}", "trainer.max_steps=24")
    assert done.status == 0, done
    last, before = (read_checkpoint(folder / "checkpoints" / "last.ckpt") for folder in (run, EARLIER / "stopped"))
    model_config = ModelConfig.from_dict(before["yinggem"]["model_config"])  # settings added since have their defaults
    assert last["global_step"] == 24
    assert last["yinggem"].pop("data")["source"] == "shakespeare"  # what the model learnt from is new there
    assert last["yinggem"] == before["yinggem"] | {"model_config": model_config.to_dict()}
    assert before["yinggem"]["model_config"].items() <= model_config.to_dict().items()
    assert last["callbacks"].keys() == before["callbacks"].keys()  # a state that finds no callback would be lost
    assert last["callbacks"]["EMA"]["latest_update_step"] == 24  # counted on from 20
    model, _ = load_model(run / "checkpoints" / "last.ckpt")
    assert all(bool(torch.isfinite(weights).all()) for weights in model.parameters())
