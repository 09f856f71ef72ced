"""The quickstart's step: what Python, dispatch and Lightning add to the arithmetic.

    python benchmarks/overhead.py

Three loops in one process: Lightning's with every callback and logger on, a bare PyTorch loop of the same loader,
model, loss, clipping, optimizer and schedule, and that bare loop on a model of the same layers whose tensors hold a
few numbers each, so that nothing but Python and dispatch is left. They take turns; a figure is the median over the
stretches between two loggings.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Iterable
from itertools import chain, islice, pairwise, repeat
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from lightning.pytorch.callbacks import Callback
from machine import print_limits

sys.path.insert(0, str(Path(__file__).parent.parent))
from yinggem.commands.run.report import silence_libraries
from yinggem.commands.train import CONF, build
from yinggem.model.config import ModelConfig
from yinggem.model.kernels.huge_pages import keep_freed_memory
from yinggem.model.transformer import Transformer

LOGGED = 10  # trainer.log_every_n_steps


class Clock(Callback):
    """When every step began."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def on_train_batch_start(self, *args: Any) -> None:
        """Look at the clock."""
        self.times.append(time.perf_counter())


def build_run(steps: int, folder: str) -> tuple[Any, Any, Any]:
    """Trainer, module and data of the quickstart, without validation."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        changes = [f"trainer.max_steps={steps}", f"trainer.val_check_interval={10 * steps}", f"run_dir={folder}"]
        return build(compose("train", changes))


def by_lightning(steps: int) -> float:
    """Seconds a step."""
    with tempfile.TemporaryDirectory() as folder:
        trainer, module, data = build_run(steps, folder)
        clock = Clock()
        trainer.callbacks.append(clock)
        trainer.fit(module, data)
    return seconds_a_step(clock.times)


def by_hand(model: Transformer, module: Any, batches: Iterable[Any], steps: int) -> float:
    """Seconds a step of a plain loop."""
    optimizer, schedule = module.make_optimizer(steps)
    times = []
    for inputs, targets in islice(batches, steps):
        times.append(time.perf_counter())
        loss = model.loss(inputs, targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    return seconds_a_step(times)


def seconds_a_step(times: list[float]) -> float:
    """The median over stretches of LOGGED steps, the first left out: each holds one logging, a burst of noise few."""
    marks = times[LOGGED::LOGGED]
    return statistics.median(after - before for before, after in pairwise(marks)) / LOGGED


def miniature(config: ModelConfig) -> Transformer:
    """The same layers, with tensors of a few numbers."""
    small = {"hidden_size": 4 * config.num_attention_heads, "intermediate_size": 8, "vocab_size": 16}
    return Transformer(ModelConfig(**(config.to_dict() | small)))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    keep_freed_memory()
    silence_libraries()
    print_limits()
    with tempfile.TemporaryDirectory() as folder:
        _, module, data = build_run(options.steps, folder)
    steps, loader = options.steps, data.train_dataloader()
    batches = chain.from_iterable(repeat(loader))
    inputs, targets = next(iter(loader))
    tiny = repeat((inputs[:1, :8] % 16, targets[:1, :8] % 16))
    loops = {
        "bare loop": lambda: by_hand(Transformer(module.model.config), module, batches, steps),
        "Lightning, logging on": lambda: by_lightning(steps),
        "Python and dispatch alone": lambda: by_hand(miniature(module.model.config), module, tiny, steps),
    }
    times: dict[str, list[float]] = {name: [] for name in loops}
    for _ in range(options.rounds):
        for name, loop in loops.items():
            times[name].append(loop())
    bare = statistics.median(times["bare loop"])
    print(f"{'':28}{'ms a step':>10}{'of the bare loop':>18}")
    for name, kept in times.items():
        seconds = statistics.median(kept)
        print(f"{name:28}{1000 * seconds:10.2f}{100 * seconds / bare:17.1f}%")


if __name__ == "__main__":
    main()
