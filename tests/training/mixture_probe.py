"""A callback that writes down with what mixtures each process of a run has ended."""

import json
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from yinggem.callbacks.ngram_memory import Memory


class Probe(Callback):
    """Writes mixtures-RANK.json to `folder`."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The mixtures of the memory, as plain data."""
        callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
        memory = next(callback.memory for callback in callbacks if isinstance(callback, Memory))
        assert memory is not None
        mixtures = [memory.scoring.to_dict(), memory.generating.to_dict()]
        Path(self.folder, f"mixtures-{trainer.global_rank}.json").write_text(json.dumps(mixtures))
