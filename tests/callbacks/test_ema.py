"""The moving average of the weights: what is validated, saved, sampled and continued."""

import json

import pytest
import torch
from running import SMALL, TEXT, here, same, soaked
from training_runs import Weights, trained

from yinggem.callbacks.ema import EMA
from yinggem.inference.checkpoint import load_model, read_checkpoint
from yinggem.runs.metrics_file import depends_on_machine, read_metrics

AVERAGED = [*SMALL, "callbacks=[default,ema]", "callbacks.ema.decay=0.8", "trainer.log_every_n_steps=1",
            "model.dropout=0.1", "data.path=own.txt"]  # fmt: skip


@pytest.fixture
def place(tmp_path, monkeypatch):
    (tmp_path / "own.txt").write_text(TEXT)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.filterwarnings("ignore")
def test_the_average_is_the_plain_recurrence(tmp_path):
    weights, averaging = Weights(), EMA(decay=0.3)
    trained(tmp_path, [averaging, weights], "adamw")
    assert averaging._average_model is not None
    module = averaging._average_model.module
    for name, average in weights.kept[1].items():
        for count, after in enumerate(weights.kept[2:], 1):
            decay = min(0.3, (1 + count) / (10 + count))
            average = decay * average + (1 - decay) * after[name]
        torch.testing.assert_close(module.get_parameter(f"model.{name}").detach(), average, rtol=1e-5, atol=1e-7)


@pytest.mark.slow
def test_validated_saved_and_continued_to_the_same_bits(place):
    def state(name: str) -> dict:
        return read_checkpoint(place / "outputs" / name / "checkpoints" / "last.ckpt")

    def figures(name: str) -> list:
        rows = read_metrics(place / "outputs" / name / "metrics.csv")
        return [{key: value for key, value in row.items() if not depends_on_machine(key)} for row in rows]

    for name, steps in (("straight", 20), ("stopped", 13)):
        command = [*AVERAGED, "scheduler=constant", f"trainer.max_steps={steps}"]
        assert here(*command, f"hydra.run.dir={place}/outputs/{name}").status == 0
    done = here("ckpt_path=outputs/stopped", "trainer.max_steps=20")
    assert done.status == 0, done
    for part in ("state_dict", "current_model_state", "averaging_state", "optimizer_states"):
        assert same(state("straight")[part], state("stopped")[part]), part
    assert figures("straight") == figures("stopped")
    saved, best = state("straight"), place / "outputs" / "straight" / "checkpoints" / "best.ckpt"
    assert not same(saved["state_dict"], saved["current_model_state"])
    model, _ = load_model(best)  # as generate.py does
    assert torch.equal(model.head.weight, read_checkpoint(best)["state_dict"]["model.head.weight"])
    exact = json.loads((place / "outputs" / "straight" / "result.json").read_text())["loss"]  # of best.ckpt, anew
    assert min(row["val/loss"] for row in figures("straight") if "val/loss" in row) == pytest.approx(exact, rel=1e-6)


def test_a_decay_that_is_none_is_one_sentence(place):
    assert "decay" in here(*AVERAGED, "callbacks.ema.decay=1").refused()


@pytest.mark.slow
@pytest.mark.parametrize("before", soaked([True, False], [True]))
def test_averaging_is_switched_off_and_on_in_a_run_that_goes_on(place, before):
    """It only watches: the weights that are trained are those of a run that was never averaged."""

    on = ["callbacks=[default,ema]", "callbacks.ema.decay=0.8"]

    def last(name: str) -> dict:
        return read_checkpoint(place / "outputs" / name / "checkpoints" / "last.ckpt")

    plain = [word for word in AVERAGED if not word.startswith("callbacks")] + ["scheduler=constant"]
    assert here(*plain, "trainer.max_steps=20", f"hydra.run.dir={place}/outputs/never").status == 0
    started = here(*plain, *(on if before else []), "trainer.max_steps=13", f"hydra.run.dir={place}/outputs/switched")
    assert started.status == 0, started
    done = here("ckpt_path=outputs/switched", *(["~callbacks.ema"] if before else on), "trainer.max_steps=20")
    assert done.status == 0 and not done.err, done
    never, switched = last("never"), last("switched")
    assert same(never["state_dict"], switched["state_dict" if before else "current_model_state"])
    assert same(never["optimizer_states"], switched["optimizer_states"])
    assert ("averaging_state" in switched) == (not before)
    if not before:
        assert not same(never["state_dict"], switched["state_dict"])
        assert switched["averaging_state"]["n_averaged"] == 7
