"""Weights, gradients and optimizer state shared out over the processes (FSDP2), and put together where needed.

Every process holds a slice of each parameter as a DTensor, whose arithmetic means that of the whole tensor: norms are
global, Adafactor's factors and Muon's products are those of whole matrices, on however many processes.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import (
    FSDPModule,
    MixedPrecisionPolicy,
    fully_shard,
    register_fsdp_forward_method,
)
from torch.distributed.tensor import DTensor, Replicate
from torch.optim import Optimizer
from torch.overrides import TorchFunctionMode

from yinggem.common.errors import UserError
from yinggem.inference.files.stored_model import PREFIX

WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True)


class ShardedStrategy(ModelParallelStrategy):
    """Lightning's strategy for FSDP2, over all processes, on CPUs too, with checkpoints that are one plain file.

    Args:
        precision: Lightning's name. With bf16-true the shards are float32 masters and what is gathered is bfloat16.

    Raises:
        UserError: a precision that cannot be sharded.
    """

    def __init__(self, precision: str = "32-true") -> None:
        if precision not in ("32-true", "bf16-mixed", "bf16-true"):
            raise UserError(f"trainer=fsdp cannot train in precision {precision}; use bf16, bf16-true or 32.")
        super().__init__(save_distributed_checkpoint=False)
        gathered = torch.bfloat16 if precision == "bf16-true" else None
        self.policy = MixedPrecisionPolicy(gathered, reduce_dtype=torch.float32, cast_forward_inputs=False)

    def setup_environment(self) -> None:
        """One dimension: data-parallel."""
        self._data_parallel_size, self._tensor_parallel_size = self.num_nodes * self.num_processes, 1
        super().setup_environment()

    def setup_optimizers(self, trainer: Trainer) -> None:
        """Made from the shards."""
        super().setup_optimizers(trainer)
        for optimizer in self.optimizers:
            finish_reductions(optimizer)

    lightning_restore_optimizer = True  # as other strategies do, after the module has seen the checkpoint

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """Verified, and mapped into memory: a process copies its own slices."""
        return self.checkpoint_io.load_checkpoint(checkpoint_path, weights_only=weights_only)

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """Slices of whole tensors."""
        assert self.model is not None
        set_model_state_dict(self.model, dict(checkpoint["state_dict"]), options=WHOLE)

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Slices of whole states, which are numbered as in any other checkpoint."""
        assert self.model is not None
        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            set_optimizer_state_dict(self.model, optimizer, _by_name(state), options=WHOLE)


def _by_name(state: Mapping[str, Any]) -> dict[str, Any]:
    """An optimizer's state dict under the names that weights have in the LightningModule, instead of numbers."""
    names = {i: f"{PREFIX}{name}" for group in state["param_groups"]
             for i, name in zip(group["params"], group["param_names"], strict=True)}  # fmt: skip
    groups = [{**group, "params": [names[i] for i in group["params"]]} for group in state["param_groups"]]
    return {"state": {names[i]: values for i, values in state["state"].items()}, "param_groups": groups}


def shard(module: LightningModule, blocks: nn.ModuleList, mesh: DeviceMesh, policy: MixedPrecisionPolicy) -> None:
    """Share the weights out: each block is gathered while it computes, all other weights for the whole step."""
    for part in (*blocks, module):
        fully_shard(part, mesh=mesh, mp_policy=policy)
    for step in ("training_step", "validation_step"):
        register_fsdp_forward_method(module, step)


def gathered(tensor: Tensor) -> Tensor:
    """The tensor itself, or what its slices on all processes make together."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def gathered_weights(module: nn.Module) -> dict[str, Any] | None:
    """The state dict on the first process, empty on the others, which must all call this; None if nothing is shared."""
    if not isinstance(module, FSDPModule):
        return None
    return get_model_state_dict(module, options=WHOLE)


def finish_reductions(optimizer: Optimizer) -> None:
    """Let an optimizer's step add up norms and sums over the processes before it writes into them, as torch's do."""
    step: Callable[..., Any] = optimizer.step

    @functools.wraps(step)
    def step_on_shards(closure: Callable[[], Any] | None = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        with _WholeReductions():
            step()
        return loss

    optimizer.step = step_on_shards  # type: ignore[method-assign]


class _WholeReductions(TorchFunctionMode):
    """Adds up, right after an operation, what it left as a partial sum on every process."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if isinstance(out, DTensor) and any(place.is_partial() for place in out.placements):
            out = out.redistribute(placements=[Replicate() if p.is_partial() else p for p in out.placements])
        return out
