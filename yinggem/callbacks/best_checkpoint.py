"""best.ckpt, and the checkpoints behind it where several are kept."""

import contextlib
import os
import re
import secrets
import shutil
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor

from yinggem.callbacks.last_checkpoint import LastCheckpoint
from yinggem.callbacks.ngram_memory import Memory
from yinggem.common.checks import check_whole_number
from yinggem.inference.checkpoint import read_checkpoint
from yinggem.runs.layout import BEST
from yinggem.training.final_validation import is_final_validation


class ModelCheckpoint(pl.callbacks.ModelCheckpoint):
    """Lightning's, with files of fixed meaning: best.ckpt is the best of all, whatever save_top_k is.

    With save_top_k=1 it is the only one. With more, or -1 for all, each is best-STEP.ckpt, and best.ckpt is another
    name (a hard link, where the file system has them) of the best.

    The rule on paths: the state holds names of files only, so a run that was moved, copied or renamed goes on as if it
    had not been.

    The final validation (`yinggem.training.final_validation`) decides on best.ckpt as well, but a run that is made
    longer goes on from before it. What best.ckpt was then is kept beside it as earlier_best.ckpt.

    Raises:
        UserError: `save_top_k` is not a whole number from -1 on.
    """

    def __init__(self, dirpath: str, filename: str = Path(BEST).stem, save_top_k: int = 1, **options: Any) -> None:
        check_whole_number("callbacks.best.save_top_k", save_top_k, -1, remedy="-1 keeps all checkpoints")
        self._several = save_top_k not in (0, 1)
        name = f"{filename}-{{step:06d}}" if self._several else filename
        super().__init__(dirpath, name, save_top_k=save_top_k, auto_insert_metric_name=False, **options)
        self._best = Path(str(self.dirpath)) / f"{filename}.ckpt"
        self._earlier_best = self._best.with_name(f"earlier_{self._best.name}")
        self._strategy: Any = None

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Know whom to ask which files there are: other machines may not see them."""
        super().setup(trainer, pl_module, stage)
        self._strategy = trainer.strategy

    def state_dict(self) -> dict[str, Any]:
        """Lightning's, with names of files in place of paths."""
        state = super().state_dict()
        paths = ("best_model_path", "kth_best_model_path", "last_model_path")
        names = {key: file_name(state[key]) for key in paths}
        return state | names | {
            "dirpath": "", "best_k_models": {file_name(path): score for path, score in self.best_k_models.items()},
        }  # fmt: skip

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Find the files in today's folder, whichever it was before; a best file that is gone is not believed."""
        scores = {file_name(path): score for path, score in state_dict.get("best_k_models", {}).items()}
        found = [name for name in scores if self._best.with_name(name).is_file()]
        found = self._strategy.broadcast(found) if self._strategy is not None else found
        self.current_score = state_dict.get("current_score")
        self.best_k_models = {str(self._best.with_name(self._own_name(name))): scores[name] for name in found}
        self._rank_models()

    def _own_name(self, name: str) -> str:
        """The name of a file of the state; where several are kept now and one was, best.ckpt needs one of its own."""
        if not self._several or name != self._best.name:
            return name
        own = f"{self._best.stem}-{read_checkpoint(self._best)['global_step']:06d}.ckpt"
        link_atomically(self._best, self._best.with_name(own))
        return own

    def _rank_models(self) -> None:
        """Derive what Lightning remembers beside the scores; of more than save_top_k only the best are remembered."""
        scores = {path: float(score) for path, score in self.best_k_models.items()}
        ranked = sorted(scores, key=scores.__getitem__, reverse=self.mode == "max")
        ranked = ranked[: self.save_top_k] if self.save_top_k >= 0 else ranked
        self.best_k_models = {path: self.best_k_models[path] for path in ranked}
        if not ranked:
            return
        self.best_model_path, self.best_model_score = ranked[0], self.best_k_models[ranked[0]]
        if len(ranked) == self.save_top_k or self.save_top_k == -1:
            self.kth_best_model_path, self.kth_value = ranked[-1], self.best_k_models[ranked[-1]]

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """In a run that goes on: let the checkpoints be those from before its final validation."""
        super().on_train_start(trainer, pl_module)
        if trainer.ckpt_path is None or not trainer.is_global_zero:
            return
        if self._earlier_best.is_file():
            link_atomically(self._earlier_best, self._best)
            self._earlier_best.unlink()
        if self._several and pl_module.validated_step != trainer.global_step:
            end = self._path_of_step(trainer.global_step)
            if str(end) not in self.best_k_models:
                end.unlink(missing_ok=True)
        if self.best_model_path:
            pl_module.good_checkpoints["best"] = str(self._best)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save, and let best.ckpt be the best."""
        if is_final_validation(trainer):
            self._save_the_end(trainer)
            return
        before = self.best_model_path
        super().on_validation_end(trainer, pl_module)
        if self._several and self.best_model_path != before and trainer.is_global_zero:
            link_atomically(Path(self.best_model_path), self._best)
        if self.best_model_path:
            module: Any = pl_module
            module.good_checkpoints["best"] = str(self._best)

    def _save_the_end(self, trainer: pl.Trainer) -> None:
        """Keep the end of the run if it is good enough, outside of the state."""
        score = trainer.callback_metrics.get(str(self.monitor))
        if not self.save_top_k or score is None or not self.check_monitor_top_k(trainer, score):
            return
        best = self._is_best(score)
        if best and trainer.is_global_zero and self.best_model_path and not self._earlier_best.is_file():
            link_atomically(self._best, self._earlier_best)
        target = self._path_of_step(trainer.global_step) if self._several else self._best
        last = (c for c in trainer.checkpoint_callbacks if isinstance(c, LastCheckpoint))
        same = [c.path for c in last if c.is_up_to_date(trainer)]
        if not same:
            trainer.save_checkpoint(target)
        elif trainer.is_global_zero:
            link_atomically(same[0], target)  # the same weights, and a state that can be continued
            for memory in (c for c in trainer.callbacks if isinstance(c, Memory)):  # type: ignore[attr-defined]
                memory.renew(target)  # fitted to these weights a moment ago
        if best and self._several and trainer.is_global_zero:
            link_atomically(target, self._best)

    def _is_best(self, score: Tensor) -> bool:
        if self.best_model_score is None:
            return True
        better = torch.lt if self.mode == "min" else torch.gt
        return bool(better(score, self.best_model_score.to(score.device)))

    def _path_of_step(self, step: int) -> Path:
        return self._best.with_name(f"{self._best.stem}-{step:06d}.ckpt")


def file_name(path: str) -> str:
    """The last part of a path of this system or another; empty for none."""
    return re.split(r"[/\\]", path)[-1]


def link_atomically(source: Path, target: Path) -> None:
    """Let `target` be the file `source`, at once; a copy where there are no links."""
    partial = target.with_name(f".{target.name}.{os.getpid()}-{secrets.token_hex(4)}.partial")
    try:
        try:
            os.link(source, partial)
        except OSError:
            shutil.copyfile(source, partial)
        os.replace(partial, target)
    finally:
        with contextlib.suppress(FileNotFoundError):
            partial.unlink()
