"""Checks of a Trainer's options, made before there is a Trainer: a run that is refused has begun nothing.

The rule: a value that Lightning would refuse with an exception of its own is refused here by name, with what to write.
"""

import os
import re
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.fabric.plugins.environments import LightningEnvironment
from lightning.pytorch.strategies import StrategyRegistry

from yinggem.common.checks import check_number, check_whole_number
from yinggem.common.errors import UserError

STRATEGIES = ("auto", "ddp", "fsdp")  # the others start processes, or keep weights, in ways of their own
ACCELERATORS = ("auto", "cpu", "gpu", "cuda", "mps", "tpu")
MAX_TIME = re.compile(r"\d+:[0-5]?\d:[0-5]?\d:[0-5]?\d")  # DD:HH:MM:SS; Lightning has other forms from Python only


def check_options(options: dict[str, Any]) -> None:
    """Refuse options that make no sense.

    Raises:
        UserError: there is one; the sentence names it, its value and the remedy.
    """
    for name in ("max_epochs", "max_steps"):
        if options.get(name) != -1:
            check_whole_number(f"trainer.{name}", options.get(name), 1, optional=True, remedy="-1 sets no limit")
    for name in ("log_every_n_steps", "accumulate_grad_batches", "num_nodes"):
        check_whole_number(f"trainer.{name}", options.get(name, 1), 1)
    for name in ("check_val_every_n_epoch", "min_epochs", "min_steps"):
        check_whole_number(f"trainer.{name}", options.get(name), 1, optional=True)
    check_number("trainer.gradient_clip_val", options.get("gradient_clip_val"), optional=True)
    _check_choice("gradient_clip_algorithm", options.get("gradient_clip_algorithm"), ("norm", "value"))
    for name in ("limit_train_batches", "limit_val_batches", "overfit_batches"):
        _check_share(name, options.get(name), least=0)
    _check_share("val_check_interval", options.get("val_check_interval"), least=1)
    if options.get("check_val_every_n_epoch", 1) is None and isinstance(options.get("val_check_interval"), float):
        raise UserError(
            "trainer.check_val_every_n_epoch=null counts steps over all epochs, so trainer.val_check_interval must be "
            f"a whole number of steps, not {options['val_check_interval']!r}."
        )
    limit = options.get("max_time")
    if isinstance(limit, str) and not MAX_TIME.fullmatch(limit):
        raise UserError(f"trainer.max_time must be DD:HH:MM:SS, such as 00:01:30:00 for 90 minutes, not {limit!r}.")
    _check_devices(options.get("devices"))
    _check_strategy(options.get("strategy"))
    _check_accelerator(options.get("accelerator"))


def _check_choice(name: str, value: Any, choices: tuple[str, ...]) -> None:
    if value is not None and value not in choices:
        raise UserError(f"trainer.{name} must be {' or '.join(choices)}, not {value!r}.")


def _check_share(name: str, value: Any, least: int) -> None:
    """A whole number of batches or steps, or a part of all from 0.0 to 1.0."""
    if value is None:
        return
    if isinstance(value, float):
        excluded = "low" if least else ""
        remedy = "a whole number counts " + ("steps" if name == "val_check_interval" else "batches")
        check_number(f"trainer.{name}", value, 0, 1, excluded, remedy=remedy)
    else:
        check_whole_number(f"trainer.{name}", value, least, remedy="a number such as 0.5 is a part of an epoch")


def _check_devices(value: Any) -> None:
    if value in (None, "auto", -1, "-1"):
        return
    if isinstance(value, list | tuple):
        for number in value:
            check_whole_number("trainer.devices", number, 0)
    elif isinstance(value, str):
        if not re.fullmatch(r"\d+(,\d+)*,?", value):
            raise UserError(f"trainer.devices must be a number of devices, a list of them, or auto, not {value!r}.")
    else:
        check_whole_number("trainer.devices", value, 1)


def _check_strategy(value: Any) -> None:
    if not isinstance(value, str) or value in STRATEGIES:
        return  # an object is its owner's responsibility
    known = value in StrategyRegistry.available_strategies() or value.startswith("deepspeed")
    why = "is not supported" if known else "is unknown"
    raise UserError(
        f"trainer.strategy={value} {why}; use ddp to train on several devices, fsdp to share out the weights as well, "
        "or auto."
    )


def _check_accelerator(name: Any) -> None:
    if not isinstance(name, str):
        return
    _check_choice("accelerator", name, ACCELERATORS)
    here = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    here["gpu"] = any(here.values())
    if not here.get(name, True):
        raise UserError(
            f"trainer.accelerator={name} needs a GPU and torch finds none here; use trainer.accelerator=cpu, or auto "
            "for the fastest there is."
        )


def check_processes(trainer: pl.Trainer) -> None:
    """Before any process is started: refuse more than there are cores, and nodes that cannot find each other.

    Raises:
        UserError: there are too many; the other nodes cannot be found.
    """
    cores = os.cpu_count() or 1
    if trainer.strategy.root_device.type == "cpu" and trainer.num_devices > cores:
        raise UserError(f"trainer.devices={trainer.num_devices} is more than the {cores} cores here; lower it.")
    environment = getattr(trainer.strategy, "cluster_environment", None)
    if trainer.num_nodes > 1 and isinstance(environment, LightningEnvironment) and "MASTER_ADDR" not in os.environ:
        raise UserError(
            f"trainer.num_nodes={trainer.num_nodes} needs MASTER_ADDR, MASTER_PORT and NODE_RANK in the environment "
            "of every node, or a launcher such as Slurm or torchrun that sets them."
        )
