"""metrics.csv: the number of a row is how many optimizer steps had been taken."""

import shutil
from pathlib import Path

import pytest
from lightning.pytorch.callbacks import Callback
from training_runs import trained

from yinggem.callbacks.lightning_monitors import DeviceStatsMonitor, LearningRateMonitor
from yinggem.callbacks.loggers.metrics_csv import MetricsCSV
from yinggem.callbacks.model_stats import UpdateRatios
from yinggem.callbacks.throughput import Throughput
from yinggem.runs.metrics_file import read_metrics

EARLIER = Path(__file__).parents[1] / "data" / "earlier" / "stopped" / "metrics.csv"  # of 20 steps, each logged


def test_a_file_of_version_0_1_0_is_continued_with_all_its_rows(tmp_path):
    path = tmp_path / "metrics.csv"
    shutil.copy(EARLIER, path)
    before = read_metrics(path)
    logger = MetricsCSV(str(tmp_path))
    logger.resume_at(20)
    logger.log_metrics({"train/loss": 1.5, "new": 2}, 21)
    logger.save()
    assert len(before) == 20 and read_metrics(path) == [*before, {"step": 21, "train/loss": 1.5, "new": 2}]


class Own(Callback):
    """A callback of somebody else, which logs as Lightning's documentation says."""

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        pl_module.log("own/training", trainer.global_step)

    def on_validation_epoch_end(self, trainer, pl_module):
        pl_module.log("own/validation", trainer.global_step)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("accumulate", [1, 2])
def test_all_figures_of_a_step_stand_in_one_row(tmp_path, accumulate):
    callbacks = [LearningRateMonitor("step"), DeviceStatsMonitor(cpu_stats=True), UpdateRatios(), Throughput(), Own()]
    rows, _ = trained(
        tmp_path, callbacks, "adamw", limit_val_batches=1, val_check_interval=3,
        check_val_every_n_epoch=None, accumulate_grad_batches=accumulate,
    )  # fmt: skip
    names = ["train/loss", "val/loss", "lr", "own/training", "own/validation", "tokens_per_second"]
    names += ["lr/pg1", "optim/update_ratio/mlp", "DeviceStatsMonitor.on_train_batch_end/cpu_percent"]
    assert sorted(rows) == [3, 6]
    for step, row in rows.items():
        assert set(names) <= row.keys() and row["own/training"] == row["own/validation"] == step
