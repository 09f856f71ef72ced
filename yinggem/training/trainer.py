"""Lightning's Trainer with the names people type, atomic checkpoints and room for bad steps."""

import os
import traceback
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.fabric.plugins.environments import LightningEnvironment
from lightning.fabric.plugins.io.checkpoint_io import CheckpointIO
from lightning.pytorch.callbacks import Checkpoint, DeviceStatsMonitor, LearningRateMonitor, ProgressBar
from lightning.pytorch.trainer.connectors.logger_connector.logger_connector import _LoggerConnector
from lightning.pytorch.trainer.states import TrainerFn

from yinggem.common.checks import check_number, check_whole_number
from yinggem.common.errors import UserError
from yinggem.common.explain import in_short
from yinggem.inference.checkpoint import clean_leftovers, read_checkpoint, write_checkpoint
from yinggem.runs.processes import ProcessGroup
from yinggem.training.companions import use_companions
from yinggem.training.final_validation import EpochLoop, validate_at_the_end
from yinggem.training.precision import Bfloat16Weights, check_precision, precision_name
from yinggem.training.sharding import ShardedStrategy


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
        skip_bad_steps: how many steps with a non-finite gradient may be left out before the run stops.
        processes: how others of the run are started, and what becomes of them; None: as Lightning does it.
        find_lr, find_batch_size: read before there is a trainer, by `yinggem.training.tuning`.
        **options: as `lightning.pytorch.Trainer`.

    Raises:
        UserError: a precision that is unknown or that the device cannot do; a device there is not; a limit that makes
            no sense.
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
        _check_limits(options)
        _check_accelerator(options.get("accelerator"))
        name = precision_name(precision)
        self.skip_bad_steps = skip_bad_steps
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
        super().__init__(precision=given, plugins=plugins, use_distributed_sampler=False, **options)
        loop = self.fit_loop.epoch_loop
        self.fit_loop.epoch_loop = EpochLoop(self, loop.min_steps, loop.max_steps)
        self.in_final_validation = False
        self._logger_connector = _StepNumbers(self)
        use_companions(self.strategy, processes or ProcessGroup())
        _check_processes(self)
        check_precision(name, self.strategy.root_device)

    def fit(self, *arguments: Any, **options: Any) -> None:
        """As Lightning's; an error while a checkpoint is restored is blamed on the file.

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
                f"{options.get('ckpt_path')} is not one to continue from: {reason}; use another."
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


def _check_limits(options: dict[str, Any]) -> None:
    for name in ("max_epochs", "max_steps"):
        if options.get(name) != -1:
            check_whole_number(f"trainer.{name}", options.get(name), 1, optional=True, remedy="-1 sets no limit")
    for name in ("log_every_n_steps", "accumulate_grad_batches"):
        check_whole_number(f"trainer.{name}", options.get(name, 1), 1)
    check_number("trainer.gradient_clip_val", options.get("gradient_clip_val"), optional=True)
    interval = options.get("val_check_interval")
    if isinstance(interval, float) and not interval <= 1:
        raise UserError(
            f"trainer.val_check_interval must be a part of an epoch up to 1.0, or a whole number of steps, "
            f"not {interval!r}."
        )
    check_number("trainer.val_check_interval", interval, excluded="low", optional=True)


def _check_accelerator(name: Any) -> None:
    here = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    here["gpu"] = any(here.values())
    if isinstance(name, str) and not here.get(name, True):
        raise UserError(
            f"trainer.accelerator={name} needs a GPU and torch finds none here; use trainer.accelerator=cpu, or auto "
            "for the fastest there is."
        )


def _check_processes(trainer: pl.Trainer) -> None:
    """Nothing is started yet: refuse more processes than this machine has cores, and waiting for nobody."""
    cores = os.cpu_count() or 1
    if trainer.strategy.root_device.type == "cpu" and trainer.num_devices > cores:
        raise UserError(f"trainer.devices={trainer.num_devices} is more than the {cores} cores here; lower it.")
    environment = getattr(trainer.strategy, "cluster_environment", None)
    if trainer.num_nodes > 1 and isinstance(environment, LightningEnvironment) and "MASTER_ADDR" not in os.environ:
        raise UserError(
            f"trainer.num_nodes={trainer.num_nodes} needs MASTER_ADDR, MASTER_PORT and NODE_RANK in the environment "
            "of every node, or a launcher such as Slurm or torchrun that sets them."
        )
