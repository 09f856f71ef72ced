"""Lightning's Trainer with the names people type, atomic checkpoints and room for bad steps."""

import math
import os
import warnings
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.fabric.plugins.environments import LightningEnvironment
from lightning.fabric.plugins.io.checkpoint_io import CheckpointIO

from yinggem.checkpoint import clean_leftovers, read_checkpoint, write_checkpoint
from yinggem.errors import UserError

PRECISIONS = {
    "32": "32-true", "fp32": "32-true", "float32": "32-true", "32-true": "32-true",
    "bf16": "bf16-mixed", "bfloat16": "bf16-mixed", "bf16-mixed": "bf16-mixed", "bf16-true": "bf16-true",
    "16": "16-mixed", "fp16": "16-mixed", "float16": "16-mixed", "16-mixed": "16-mixed",
    "64": "64-true", "64-true": "64-true",
}  # fmt: skip


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


class Trainer(pl.Trainer):
    """`lightning.pytorch.Trainer`, with the sampler and the checkpoint files that are ours.

    Args:
        precision: bf16, bf16-true, 16, 32, 64, or Lightning's own names.
        skip_bad_steps: how many steps with a non-finite gradient may be left out before the run stops.
        **options: as `lightning.pytorch.Trainer`.

    Raises:
        UserError: a precision that is unknown or that the device cannot do; a limit that makes no sense.
    """

    def __init__(self, precision: str | int = "32", skip_bad_steps: int = 0, **options: Any) -> None:
        if not isinstance(skip_bad_steps, int) or isinstance(skip_bad_steps, bool) or skip_bad_steps < 0:
            raise UserError(f"trainer.skip_bad_steps must be a whole number from 0 on, not {skip_bad_steps!r}.")
        _check_limits(options)
        name = PRECISIONS.get(str(precision).lower())
        if name is None:
            raise UserError(f"trainer.precision={precision} is unknown; choose bf16, bf16-true, 16, 32 or 64.")
        self.skip_bad_steps = skip_bad_steps
        plugins = [AtomicCheckpointIO(), *(options.pop("plugins", None) or [])]
        super().__init__(precision=name, plugins=plugins, use_distributed_sampler=False, **options)  # type: ignore[arg-type]
        _check_processes(self)
        check_precision(name, self.strategy.root_device)


def _check_limits(options: dict[str, Any]) -> None:
    for name in ("max_epochs", "max_steps"):
        value = options.get(name)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < -1):
            raise UserError(f"trainer.{name} must be a whole number from 1 on, or -1 for no limit, not {value!r}.")
    for name in ("log_every_n_steps", "accumulate_grad_batches"):
        value = options.get(name, 1)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise UserError(f"trainer.{name} must be a whole number from 1 on, not {value!r}.")
    interval = options.get("val_check_interval")
    if interval is not None and (isinstance(interval, bool) or not interval > 0):
        raise UserError(
            f"trainer.val_check_interval must be a part of an epoch from 0 to 1, or a number of batches, "
            f"not {interval!r}."
        )
    clip = options.get("gradient_clip_val")
    if clip is not None and (isinstance(clip, bool) or not isinstance(clip, int | float) or not 0 <= clip < math.inf):
        raise UserError(f"trainer.gradient_clip_val must be a number from 0 on, or null, not {clip!r}.")


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


def check_precision(name: str, device: torch.device) -> None:
    """UserError where the device cannot compute in that precision; one warning where it can, but slowly."""
    if name == "16-mixed" and device.type == "cpu":
        raise UserError("trainer.precision=16 needs a GPU; use bf16 or 32 on the CPU.")
    if not name.startswith("bf16"):
        return
    if device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        raise UserError("trainer.precision=bf16 is beyond this GPU, which has no bfloat16; use 16 or 32.")
    if device.type == "cpu" and not has_native_bfloat16():
        warnings.warn(
            "This CPU emulates bfloat16: training will be 3 to 4 times slower than with trainer.precision=32.",
            stacklevel=2,
        )


def has_native_bfloat16() -> bool:
    """Whether the CPU multiplies bfloat16 in hardware (AVX512-BF16, AMX, or an Arm with BF16)."""
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16", "arm_bf16"))
