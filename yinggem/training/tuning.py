"""Settings found by trying, before the run: trainer.find_batch_size=true, trainer.find_lr=true, a plan of the steps.

The search has a model, data and a trainer of its own, which are thrown away. What it finds is put into the
configuration and kept in the run folder, so a run with find_lr=true is, to the last bit, the run with that rate typed.
"""

import json
import math
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch.tuner import Tuner

from yinggem.common.errors import UserError
from yinggem.common.files import write_atomically
from yinggem.training.datamodule import TextDataModule
from yinggem.training.memory_limit import available_memory, check_memory
from yinggem.training.module import LanguageModule
from yinggem.training.plan.step_plan import ends_by_time_alone, may_end_early, plan_steps
from yinggem.training.plan.trial_run import SKIP_ALL, STEPS, Build, options_of, quiet, trial_trainer

FOUND = "found.json"
RATES = (1e-6, 1.0)  # of the learning-rate search
LARGEST = 4096  # windows in a batch: where the search ends


def tune(cfg: Any, folder: Path, build: Build, *, new: bool = True, steps_typed: bool = True) -> None:
    """Put into `cfg` what has to be found: data.batch_size, optimizer.lr and trainer.max_steps, in this order.

    Args:
        folder: of the run; what an earlier part of it found is read there and not searched again.
        build: makes trainer, module and data of a configuration.
        new: whether the run begins now.
        steps_typed: whether somebody typed trainer.max_steps: it is not lowered then.

    Raises:
        UserError: there are several devices, or several learning rates; nothing can be suggested.
    """
    if cfg.trainer.fast_dev_run:
        return
    path = folder / FOUND
    found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    for switch, group, name, find in (
        ("find_batch_size", "data", "batch_size", find_batch_size),
        ("find_lr", "optimizer", "lr", find_lr),
    ):
        if not cfg.trainer[switch]:
            continue
        if f"{group}.{name}" not in found:
            trainer, module, data = build(cfg)
            module.skip_bad_steps = SKIP_ALL  # high rates are tried as well
            if trainer.world_size > 1:
                raise UserError(f"trainer.{switch}=true searches on one device; find it with trainer.devices=1 first.")
            with tempfile.TemporaryDirectory() as place, quiet():
                found[f"{group}.{name}"] = find(module, data, folder, default_root_dir=place, **options_of(cfg))
            print(f"Found      {group}.{name}={found[f'{group}.{name}']:g}", flush=True)
            write_atomically(path, json.dumps(found).encode())
        cfg[group][name] = found[f"{group}.{name}"]
    limit = str(cfg.trainer.max_time)
    known = found.get("trainer.max_time") == limit
    shortened = not steps_typed and (known or (new and may_end_early(cfg.trainer)))
    if ends_by_time_alone(cfg.trainer) or shortened:
        if not known:
            found |= {"trainer.max_time": limit, "trainer.max_steps": plan_steps(cfg, build)}
            write_atomically(path, json.dumps(found).encode())
        cfg.trainer.max_steps = found["trainer.max_steps"]


def find_lr(module: LanguageModule, data: TextDataModule, folder: Path, **options: Any) -> float:
    """Lightning's range test (Smith 2017): the rate at which the loss falls fastest as the rate rises exponentially.

    Writes lr_find.png to `folder`.
    """
    optimizer, _ = module.make_optimizer(total_steps=1)
    if len({group["initial_lr"] for group in optimizer.param_groups}) > 1:
        raise UserError("trainer.find_lr=true finds one rate and this optimizer has several; set them yourself.")
    finder = Tuner(trial_trainer(**options)).lr_find(
        module, datamodule=data, min_lr=RATES[0], max_lr=RATES[1], num_training=STEPS, update_attr=False
    )
    assert finder is not None
    rates, losses = (np.asarray(finder.results[name], dtype=float) for name in ("lr", "loss"))
    usable = np.isfinite(losses)
    place = steepest(losses[usable])
    if place is None:
        raise UserError("trainer.find_lr=true found no rate at which the loss falls; set optimizer.lr yourself.")
    rate = float(f"{rates[usable][place]:.3g}")
    draw_search(rates[usable], losses[usable], rate, folder / "lr_find.png")
    return rate


def steepest(losses: np.ndarray, skip: int = 10) -> int | None:
    """Where the curve falls fastest per step, that is per factor of the rate; None where it never falls.

    Lightning's own suggestion divides by the rate itself and so prefers the smallest ones, where there is only noise.
    """
    if len(losses) < skip + 3:
        return None
    slopes = np.gradient(losses)[skip:-1]
    return skip + int(slopes.argmin()) if slopes.min() < 0 else None


def draw_search(rates: np.ndarray, losses: np.ndarray, rate: float, path: Path) -> None:
    """The curve and the rate that was chosen."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.2), dpi=110, layout="constrained")
    axes = figure.add_subplot()
    axes.plot(rates, losses, color="#14507d", linewidth=1.5)
    axes.axvline(rate, color="#c8501e", label=f"steepest: {rate:g}")
    axes.set(xscale="log", xlabel="optimizer.lr", ylabel="train/loss, smoothed (nats per token)")
    axes.grid(alpha=0.25)
    axes.legend()
    write_atomically(path, lambda file: figure.savefig(file, format="png"))


def find_batch_size(module: LanguageModule, data: TextDataModule, folder: Path, **options: Any) -> int:
    """Lightning's search: the largest batch that fits, by doubling the configured one.

    A GPU says when its memory is full. On a CPU the system would end the process instead, so the search goes no
    further than a third of the free memory by our own estimate.
    """
    trainer = trial_trainer(**options)
    count = data.train_windows
    optimizer, _ = module.make_optimizer(total_steps=1)
    trials = 0
    for doublings in range(1 + int(math.log2(max(1.0, min(LARGEST, count) / data.batch_size)))):
        tokens = (data.batch_size << doublings) * data.context_length
        if trainer.strategy.root_device.type == "cpu" and not fits(module, tokens, type(optimizer).__name__):
            break
        trials += 1
    size = Tuner(trainer).scale_batch_size(
        module, datamodule=data, steps_per_trial=2, init_val=data.batch_size, max_trials=max(1, trials), max_val=1 << 30
    )
    return int(size or data.batch_size)


def fits(module: LanguageModule, tokens: int, optimizer: str) -> bool:
    """Whether a step of so many tokens needs at most a third of the free memory."""
    available = available_memory()
    try:
        check_memory(module.model.config, tokens, optimizer, None if available is None else available // 3)
    except UserError:
        return False
    return True
