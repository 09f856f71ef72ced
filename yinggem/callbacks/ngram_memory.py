"""The memory of a run: which text it counts, how its mixture is fitted, and that it is in every checkpoint."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch import Callback

from yinggem.common.checks import check_number
from yinggem.inference.checkpoint import memory_entry, read_checkpoint, write_checkpoint
from yinggem.memory.mixture import LEAST_TOKENS, Mixture
from yinggem.memory.ngram_memory import NgramMemory, mixed
from yinggem.training.datamodule import TextDataModule

MOST_HELD_OUT = 1 << 14  # tokens: a longer slice fits the mixture no better, and every validation reads it


class Memory(Callback):
    """Counts the training split, beside the network, and fits how much that is believed at every validation.

    The mixture is fitted to the end of the training split, which neither the network nor the counts of the fit have
    seen: the network never trains on it, which costs `held_out` of its text. The counts that are kept are of the whole
    split. Before the first validation, and where the slice would be too short, the weights are fixed ones.

    Args:
        held_out: share of the training tokens that is kept for the fit; never more than MOST_HELD_OUT tokens.

    Raises:
        UserError: `held_out` is not between 0 and 0.5.
    """

    def __init__(self, held_out: float = 0.02) -> None:
        super().__init__()
        check_number("memory.held_out", held_out, 0, 0.5)
        self.held_out = held_out
        self.memory: NgramMemory | None = None  # of the whole training split
        self._seen: NgramMemory | None = None  # of what the network trains on
        self._rows = np.zeros((0, 2), np.int64)  # of the slice that is held out

    def tokens_held_out(self, tokens: int) -> int:
        """How many of the training tokens, the last, are kept for the fit; 0 where they would be too few."""
        held_out = min(int(tokens * self.held_out), MOST_HELD_OUT)
        return held_out if held_out > LEAST_TOKENS else 0

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Take the text. Whichever process counts it first does so for all: the others find the index in the cache."""
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        if self.memory is not None or not isinstance(data, TextDataModule) or data.split is None:
            return
        ids, size = data.training_text(), data.tokenizer.vocab_size
        cut = len(ids) - data.held_out
        self.memory, self._seen = NgramMemory(ids, size), NgramMemory(ids[:cut], size)
        if data.held_out:
            length = min(data.eval_context_length, data.held_out - 1)
            slice_, count = ids[cut:], (data.held_out - 1) // length
            self._rows = np.stack([slice_[k * length : (k + 1) * length + 1] for k in range(count)]).astype(np.int64)

    @torch.no_grad()
    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Fit the mixture to the network as it is now, in the first process, for all."""
        if trainer.sanity_checking or self.memory is None or self._seen is None or not len(self._rows):
            return
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        found = []
        with trainer.precision_plugin.forward_context():
            for block in torch.from_numpy(self._rows).split(data.eval_batch_size):
                block = block.to(pl_module.device)
                found.append(pl_module.loss((block[:, :-1], block[:, 1:]), reduction="none").cpu().double())
        mixtures: Any = None
        if trainer.is_global_zero:
            fitted = self._seen.fitted(self._rows, torch.cat(found).numpy())
            mixtures = fitted.scoring, fitted.generating
        scoring, generating = trainer.strategy.broadcast(mixtures)
        self.memory = replace(self.memory, scoring=scoring, generating=generating)

    def on_save_checkpoint(self, trainer: pl.Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Keep the memory with the weights."""
        if self.memory is not None:
            checkpoint.update(memory_entry(self.memory))

    def renew(self, path: Path) -> None:
        """Let a checkpoint that was saved earlier hold today's mixture."""
        if self.memory is not None:
            write_checkpoint(path, read_checkpoint(path) | memory_entry(self.memory))

    def on_load_checkpoint(self, trainer: pl.Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Go on with the mixture of the checkpoint; the counts are of the text that is there now."""
        entry = checkpoint.get("memory")
        if self.memory is not None and isinstance(entry, dict):
            scoring, generating = (
                Mixture.from_dict(entry.get(name), *mixed(self.memory.vocab_size)) for name in ("scoring", "generating")
            )
            self.memory = replace(self.memory, scoring=scoring, generating=generating)
