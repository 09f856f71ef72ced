"""One optimizer step of the base shape: Adafactor as conf/optimizer has it against torch's AdamW(foreach).

    python benchmarks/optimizer.py

Each runs in a process of its own on random gradients; the share is that of a training step of B2 x T1024, measured
in the same process.
"""

import argparse
import json
import resource
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import torch
from machine import median_seconds, print_limits
from torch.optim import AdamW, Optimizer
from training_step import CONFIG, make_yinggem

from yinggem.training.optimizers.adafactor import Adafactor

OPTIMIZERS: dict[str, Callable[[Any], Optimizer]] = {
    "Adafactor": lambda parameters: Adafactor(parameters, lr=1e-3),
    "torch's Adafactor": lambda parameters: torch.optim.Adafactor(parameters, lr=1e-3),
    "AdamW(foreach)": lambda parameters: AdamW(parameters, lr=1e-3, foreach=True),
    "AdamW(fused)": lambda parameters: AdamW(parameters, lr=1e-3, fused=True),
}


def measure(name: str, batch: int, length: int) -> dict[str, float]:
    """Median seconds of an optimizer step, seconds of forward and backward, peak resident GB."""
    torch.manual_seed(0)
    model, loss = make_yinggem()
    optimizer = OPTIMIZERS[name](model.parameters())
    ids = torch.randint(CONFIG.vocab_size, (batch, length + 1))
    passes = median_seconds(lambda: (optimizer.zero_grad(), loss(ids).backward()), repeats=1)
    seconds = median_seconds(optimizer.step, repeats=5)
    gigabytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    return {"seconds": seconds, "passes": passes, "gigabytes": gigabytes}


def main() -> None:
    """Measure every optimizer and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--length", type=int, default=1024)
    parser.add_argument("--measure", choices=OPTIMIZERS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.measure, options.batch, options.length)))
        return
    print_limits()
    print(f"{'':20}{'ms':>8}{'% of the step':>15}{'peak GB':>9}")
    for name in OPTIMIZERS:
        command = [sys.executable, *sys.argv, "--measure", name]
        result = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
        share = 100 * result["seconds"] / (result["seconds"] + result["passes"])
        print(f"{name:20}{1000 * result['seconds']:8.0f}{share:15.1f}{result['gigabytes']:9.2f}", flush=True)


if __name__ == "__main__":
    main()
