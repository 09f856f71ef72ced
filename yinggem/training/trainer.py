"""Lightning's Trainer with the names people type, atomic checkpoints and room for bad steps."""

import traceback
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.fabric.plugins.io.checkpoint_io import CheckpointIO
from lightning.pytorch.callbacks import Checkpoint, DeviceStatsMonitor, LearningRateMonitor, ProgressBar
from lightning.pytorch.trainer.connectors.logger_connector.logger_connector import _LoggerConnector
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from yinggem.common.checks import check_whole_number
from yinggem.common.errors import UserError
from yinggem.common.explain import in_short
from yinggem.inference.checkpoint import clean_leftovers, read_checkpoint, write_checkpoint
from yinggem.runs.processes import ProcessGroup
from yinggem.training.distributed.companions import use_companions
from yinggem.training.distributed.sharding import ShardedStrategy
from yinggem.training.epoch_loop import EpochLoop
from yinggem.training.final_validation import validate_at_the_end
from yinggem.training.precision import Bfloat16Weights, check_precision, precision_name
from yinggem.training.trainer_options import check_options, check_processes


class AtomicCheckpointIO(CheckpointIO):
    """Checkpoints written whole or not at all, and verified before they are read."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write to a temporary file in the same folder, flush it to disk, rename."""
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        write_checkpoint(path, checkpoint)

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        """Plain data and tensors only, whatever the file claims to be."""
        clean_leftovers(Path(path).parent)
        return read_checkpoint(path, map_location or "cpu")

    def remove_checkpoint(self, path: Any) -> None:
        """Delete a checkpoint that a better one replaced."""
        Path(path).unlink(missing_ok=True)


class _StepNumbers(_LoggerConnector):
    """What is logged with `self.log` stands at the number of steps taken so far; Lightning's own count starts at 0."""

    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        """To every logger, at `step` or a figure of that name where there is one."""
        super().log_metrics(metrics, self.trainer.global_step if step is None and "step" not in metrics else step)


class Trainer(pl.Trainer):
    """`lightning.pytorch.Trainer`, with the sampler and the checkpoint files that are ours.

    Args:
        precision: bf16, bf16-true, 16, 32, 64, or Lightning's own names.
        skip_bad_steps: checked here; it is the LanguageModule that leaves such steps out.
        processes: how others of the run are started, and what becomes of them; None: as Lightning does it.
        find_lr, find_batch_size: read before there is a trainer, by `yinggem.training.tuning`.
        **options: as `lightning.pytorch.Trainer`.

    Raises:
        UserError: a precision that is unknown or that the device cannot do; a device that is not here; a limit that
            makes no sense.
    """

    def __init__(
        self,
        precision: str | int = "32",
        skip_bad_steps: int = 0,
        find_lr: bool = False,
        find_batch_size: bool = False,
        processes: ProcessGroup | None = None,
        **options: Any,
    ) -> None:
        check_whole_number("trainer.skip_bad_steps", skip_bad_steps, 0)
        check_options(options)
        name = precision_name(precision)
        plugins = [AtomicCheckpointIO(), *(options.pop("plugins", None) or [])]
        if options.get("logger") in ([], False):  # these speak to loggers only, and Lightning refuses them without one
            silent = (LearningRateMonitor, DeviceStatsMonitor)
            options["callbacks"] = [c for c in options.get("callbacks") or [] if not isinstance(c, silent)]
        given: Any = name
        if options.get("strategy") == "fsdp":
            options["strategy"] = ShardedStrategy(name)
            given = "32-true" if name == "bf16-true" else name  # the shards are the float32 masters
        elif name == "bf16-true":
            plugins.append(Bfloat16Weights())
            given = None
        for switch, kind in (("enable_progress_bar", ProgressBar), ("enable_checkpointing", Checkpoint)):
            own = any(isinstance(callback, kind) for callback in options.get("callbacks") or [])
            options.setdefault(switch, own)  # or Lightning puts one of its own where ours was left out
        every = 1.0 if options.get("val_check_interval") is None else options["val_check_interval"]
        if options.get("check_val_every_n_epoch", 1) is not None:
            options["val_check_interval"] = 1.0  # Lightning refuses more batches than an epoch has; our loop counts
        try:
            super().__init__(precision=given, plugins=plugins, use_distributed_sampler=False, **options)
        except (TypeError, ValueError, MisconfigurationException) as error:
            if isinstance(error, UserError):
                raise
            raise UserError(
                f"trainer does not take these values: {' '.join(str(error).split()).rstrip('.')}."
            ) from error
        self._logger_connector = _StepNumbers(self)
        loop, every = self.fit_loop.epoch_loop, 1.0 if options.get("fast_dev_run") else every
        self.fit_loop.epoch_loop = EpochLoop(self, loop.min_steps, loop.max_steps, every)
        self.in_final_validation = False
        use_companions(self.strategy, processes or ProcessGroup())
        check_processes(self)
        check_precision(name, self.strategy.root_device)

    def fit(self, *arguments: Any, **options: Any) -> None:
        """As Lightning's; an error while a checkpoint is restored names the file.

        Raises:
            UserError: the checkpoint does not hold what this run needs to go on.
        """
        try:
            super().fit(*arguments, **options)
        except Exception as error:
            if isinstance(error, UserError | OSError | MemoryError) or not _restoring(error):
                raise
            reason = in_short(error).rstrip(".")
            raise UserError(
                f"{options.get('ckpt_path')} cannot be continued from: {reason}; use another checkpoint."
            ) from error

    def _run_stage(self) -> Any:
        """Train, and validate at the end; also where a run that is continued had only that left to do."""
        results = super()._run_stage()
        if self.state.fn == TrainerFn.FITTING:
            validate_at_the_end(self)
        return results


def _restoring(error: Exception) -> bool:
    """Whether it was raised while Lightning handed out what a checkpoint holds."""
    frames = traceback.extract_tb(error.__traceback__)
    return any(Path(frame.filename).name == "checkpoint_connector.py" and "restore" in frame.name for frame in frames)
