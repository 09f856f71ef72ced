"""Stop anywhere, continue, end with the bits of a run that never stopped."""

import shutil
from functools import partial
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint
from running import same, soaked
from torch.optim.lr_scheduler import StepLR

from yinggem.callbacks.last_checkpoint import LastCheckpoint
from yinggem.callbacks.lightning_monitors import LearningRateMonitor
from yinggem.callbacks.loggers.metrics_csv import MetricsCSV
from yinggem.model.config import ModelConfig
from yinggem.model.transformer import Transformer
from yinggem.text.tokenizer import ByteTokenizer
from yinggem.training.datamodule import TextDataModule
from yinggem.training.module import LanguageModule, OptimizerFactory, SchedulerFactory
from yinggem.training.optimizers.muon import MuonAdamW
from yinggem.training.schedules import constant, trapezoid
from yinggem.training.trainer import Trainer

OPTIMIZERS: dict[str, OptimizerFactory] = {
    "adafactor": partial(torch.optim.Adafactor, lr=0.03),
    "flat": partial(torch.optim.Adafactor, lr=0.03),
    "stepped": partial(torch.optim.SGD, lr=0.1, momentum=0.9),
    "adamw": partial(torch.optim.AdamW, lr=1e-2, weight_decay=0.1),
    "muon": partial(MuonAdamW, lr=0.02),
}


class KeepEveryCheckpoint(Callback):
    """Copies last.ckpt and metrics.csv whenever they changed, as if the process had been killed right then."""

    def __init__(self, folder):
        self.folder, self.kept = folder, {}

    def keep(self, trainer):
        source = self.folder / "last.ckpt"
        if source.exists() and trainer.global_step not in self.kept:
            copy = self.folder.parent / f"killed-{trainer.global_step}"
            copy.mkdir()
            shutil.copy(source, copy)
            shutil.copy(self.folder / "metrics.csv", copy)
            self.kept[torch.load(copy / "last.ckpt", weights_only=True)["global_step"]] = copy

    def on_train_batch_start(self, trainer, *args):
        self.keep(trainer)


def train(folder, corpus, optimizer, resume=False, keep=None, **options):
    torch.manual_seed(0)
    data = TextDataModule(
        ByteTokenizer(), "text", str(corpus), context_length=16, batch_size=4, cache_dir=str(folder.parent / "cache")
    )
    data.setup()
    config = ModelConfig(256, 16, 2, 2, 1, 24, attention_window=8, dropout=0.1, attention_dropout=0.1)
    schedules: dict[str, SchedulerFactory] = {"flat": constant, "stepped": partial(StepLR, step_size=5)}
    module = LanguageModule(
        Transformer(config), data.tokenizer, OPTIMIZERS[optimizer], schedules.get(optimizer, trapezoid), 16
    )
    logger = MetricsCSV(str(folder))
    checkpoint = str(folder / "last.ckpt") if resume else None
    if checkpoint is not None:
        logger.resume_at(torch.load(checkpoint, weights_only=True)["global_step"])
    best = ModelCheckpoint(
        str(folder), "best", monitor="val/loss", enable_version_counter=False, save_on_train_epoch_end=False
    )
    callbacks = [
        EarlyStopping("val/loss", patience=3, check_on_train_epoch_end=False),
        LearningRateMonitor("step"),
        best,
    ]
    callbacks += [LastCheckpoint(str(folder), every_n_steps=1), *([keep] if keep else [])]
    options = {"max_epochs": 2, "log_every_n_steps": 1, "gradient_clip_val": 1.0} | options
    trainer = Trainer(
        accelerator="cpu", logger=logger, callbacks=callbacks, enable_progress_bar=False, num_sanity_val_steps=0,
        enable_model_summary=False, **options,
    )  # fmt: skip
    trainer.fit(module, data, ckpt_path=checkpoint, weights_only=True)
    content = torch.load(folder / "last.ckpt", weights_only=True)
    return content, (folder / "metrics.csv").read_text(), torch.load(folder / "best.ckpt", weights_only=True)


SHAPES: dict[str, dict[str, Any]] = {
    "by epochs": {},
    "every 3 steps": {"val_check_interval": 3, "check_val_every_n_epoch": None},
    "twice an epoch": {"val_check_interval": 0.5},
    "accumulating": {"accumulate_grad_batches": 3, "val_check_interval": 2, "check_val_every_n_epoch": None},
    "accumulating, parts of an epoch": {"accumulate_grad_batches": 3, "val_check_interval": 0.4},
    "accumulating, steps of an epoch": {"accumulate_grad_batches": 2, "val_check_interval": 3},
    "by steps": {"max_epochs": -1, "max_steps": 17, "val_check_interval": 5, "check_val_every_n_epoch": None},
}
CASES = [("adafactor", shape) for shape in SHAPES]
CASES += [(optimizer, "every 3 steps") for optimizer in ("adamw", "muon", "stepped")]
ALWAYS = [("adafactor", "accumulating"), ("muon", "every 3 steps")]


@pytest.mark.slow
@pytest.mark.parametrize(("optimizer", "shape"), soaked(CASES, ALWAYS))
@pytest.mark.filterwarnings("ignore")
def test_a_run_continued_after_any_step_ends_with_the_same_bits(tmp_path, optimizer, shape):
    corpus = tmp_path / "text.txt"
    corpus.write_text("".join(f"{k} times {k} is {k * k}.\n" for k in range(1, 36)))
    straight = tmp_path / "straight"
    keep = KeepEveryCheckpoint(straight)
    last, rows, best = train(straight, corpus, optimizer, keep=keep, **SHAPES[shape])
    assert len(keep.kept) >= 6 and last["global_step"] > max(keep.kept)
    for step, folder in sorted(keep.kept.items()):
        shutil.copy(straight / "best.ckpt", folder)  # a later best, as when the kill came after it was written
        again, again_rows, again_best = train(folder, corpus, optimizer, resume=True, **SHAPES[shape])
        assert again["global_step"] == last["global_step"], step
        for part in ("state_dict", "optimizer_states", "lr_schedulers"):
            assert same(last[part], again[part]), (step, part)
        assert rows == again_rows, step
        assert same(best["state_dict"], again_best["state_dict"]) and best["global_step"] == again_best["global_step"]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_finished_run_can_be_made_longer(tmp_path):
    corpus = tmp_path / "text.txt"
    corpus.write_text("".join(f"{k} times {k} is {k * k}.\n" for k in range(1, 36)))
    options = {"max_epochs": -1, "val_check_interval": 7, "check_val_every_n_epoch": None}
    long, rows, _ = train(tmp_path / "long", corpus, "flat", max_steps=21, **options)
    train(tmp_path / "short", corpus, "flat", max_steps=14, **options)
    longer, longer_rows, _ = train(tmp_path / "short", corpus, "flat", resume=True, max_steps=21, **options)
    assert same(long["state_dict"], longer["state_dict"]) and rows == longer_rows
