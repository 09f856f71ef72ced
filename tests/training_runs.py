"""A LanguageModule trained from Python for a few steps, and what a test wants to know of it."""

from functools import partial
from typing import Any

import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers.logger import Logger
from running import TEXT
from torch import Tensor

from yinggem.model.config import ModelConfig
from yinggem.model.transformer import Transformer
from yinggem.text.tokenizer import ByteTokenizer
from yinggem.training.datamodule import TextDataModule
from yinggem.training.module import LanguageModule, OptimizerFactory
from yinggem.training.optimizers.muon import MuonAdamW
from yinggem.training.schedules import constant
from yinggem.training.trainer import Trainer

SHAPE: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 24}
GROUPS = {"embedding", "attention", "mlp", "norms", "head"}
OPTIMIZERS: dict[str, OptimizerFactory] = {
    "sgd": partial(torch.optim.SGD, lr=0.5),
    "adafactor": partial(torch.optim.Adafactor, lr=0.03),
    "adamw": partial(torch.optim.AdamW, lr=1e-2, weight_decay=0.1),
    "muon": partial(MuonAdamW, lr=0.02),
}


class Kept(Logger):
    """Keeps what is logged."""

    name, version = "kept", ""

    def __init__(self):
        super().__init__()
        self.rows: dict[int, dict[str, float]] = {}

    def log_metrics(self, metrics, step=None):
        self.rows.setdefault(step, {}).update(metrics)

    def log_hyperparams(self, params):
        pass


class Weights(Callback):
    """The weights after every optimizer step, the initial ones first."""

    def __init__(self):
        self.kept: list[dict[str, Tensor]] = []

    def keep(self, module):
        self.kept.append({name: weights.detach().clone() for name, weights in module.model.named_parameters()})

    def on_train_start(self, trainer, pl_module):
        self.keep(pl_module)

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if (batch_idx + 1) % trainer.accumulate_grad_batches == 0:
            self.keep(pl_module)


def trained(tmp_path, callbacks, optimizer="sgd", shape=(), **options):
    path = tmp_path / "text.txt"
    path.write_text(TEXT)
    data = TextDataModule(ByteTokenizer(), "text", str(path), 24, 4, 5, cache_dir=str(tmp_path))
    data.setup()
    torch.manual_seed(0)
    model = Transformer(ModelConfig(vocab_size=256, attention_window=8, **(SHAPE | dict(shape))))
    module = LanguageModule(model, data.tokenizer, OPTIMIZERS[optimizer], constant, 24)
    logger = Kept()
    Trainer(**({
        "max_steps": 6, "logger": logger, "callbacks": callbacks, "enable_checkpointing": False, "accelerator": "cpu",
        "enable_progress_bar": False, "enable_model_summary": False, "num_sanity_val_steps": 0, "limit_val_batches": 0,
        "log_every_n_steps": 3, "gradient_clip_val": 1.0,
    } | options)).fit(module, data)  # fmt: skip
    return logger.rows, module
