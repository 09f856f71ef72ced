"""Number formats: the names people type, what a device can do, and bfloat16 weights that lose no small update."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from lightning.pytorch.plugins.precision import Precision
from torch import nn

from yinggem.common.errors import UserError

PRECISIONS = {
    "32": "32-true", "fp32": "32-true", "float32": "32-true", "32-true": "32-true",
    "bf16": "bf16-mixed", "bfloat16": "bf16-mixed", "bf16-mixed": "bf16-mixed", "bf16-true": "bf16-true",
    "16": "16-mixed", "fp16": "16-mixed", "float16": "16-mixed", "16-mixed": "16-mixed",
    "64": "64-true", "64-true": "64-true",
}  # fmt: skip


class Bfloat16Weights(Precision):
    """Trains in bfloat16 throughout, weights included, and updates float32 masters of the weights.

    A bfloat16 has 8 significant bits: a step below 1/256 of a weight would be rounded away, as most steps are. So the
    module's parameters stay float32 and are what the optimizer, the gradient norm, an average of the weights and the
    checkpoints see; every forward pass works on bfloat16 copies, and their gradients arrive in float32. Nothing else
    differs from a float32 run, so that one goes on from a checkpoint of the other, and resuming keeps every bit.
    Source: Micikevicius et al. 2018, "Mixed precision training", section 3.1 (the master copy of the weights).
    """

    precision: Literal["bf16-true"] = "bf16-true"

    def __init__(self) -> None:
        self._module: nn.Module | None = None

    def convert_module(self, module: nn.Module) -> nn.Module:
        """Remember whose weights these are; they stay float32."""
        self._module = module
        return module

    @contextmanager
    def forward_context(self) -> Iterator[None]:
        """Within a step every parameter is its bfloat16 copy."""
        owners = [] if self._module is None else [part for part in self._module.modules() if part._parameters]
        masters = [dict(part._parameters) for part in owners]
        try:
            for part in owners:
                for name, master in part._parameters.items():
                    part._parameters[name] = _bfloat16(master)
            yield
        finally:
            for part, own in zip(owners, masters, strict=True):
                part._parameters.update(own)


def _bfloat16(master: Any) -> Any:
    return master if master is None else master.bfloat16()  # differentiable: the gradient is cast back


def precision_name(precision: str | int) -> str:
    """Lightning's name of a precision; UserError where there is none."""
    name = PRECISIONS.get(str(precision).lower())
    if name is None:
        raise UserError(f"trainer.precision={precision} is unknown; choose bf16, bf16-true, 16, 32 or 64.")
    return name


def check_precision(name: str, device: torch.device) -> None:
    """UserError where the device cannot compute in that precision; one warning where it can, but slowly."""
    if name == "16-mixed" and device.type == "cpu":
        raise UserError("trainer.precision=16 needs a GPU; use bf16 or 32 on the CPU.")
    if not name.startswith("bf16"):
        return
    if device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        raise UserError("trainer.precision=bf16 needs bfloat16, which this GPU lacks; use 16 or 32.")
    if device.type == "cpu" and not has_native_bfloat16():
        warnings.warn(
            "This CPU emulates bfloat16: training will be 3 to 4 times slower than with trainer.precision=32.",
            stacklevel=2,
        )


def has_native_bfloat16() -> bool:
    """Whether the CPU multiplies bfloat16 in hardware (AVX512-BF16, AMX, or an Arm with BF16)."""
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16", "arm_bf16"))
