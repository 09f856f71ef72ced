"""What this machine can do at most: every other table here is read against these two figures."""

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import torch

from yinggem.model.kernels.huge_pages import zeros_in_huge_pages


def median_seconds(function: Callable[[], object], repeats: int = 7) -> float:
    """Median wall time of `function` after one call that warms it up."""
    function()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def measure_apart(script: str, *words: object) -> Any:
    """What `script --one WORDS` prints last, as JSON, in a fresh process."""
    command = [sys.executable, script, "--one", *map(str, words)]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1])


def matmul_gflops(size: int = 2048, device: str = "cpu") -> float:
    """Product of two square matrices into warm memory, in GFLOP/s: float32, and larger ones in bfloat16 on a GPU."""
    if device != "cpu":
        size *= 4
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    left, right, out = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(3))

    def multiply() -> None:
        torch.mm(left, right, out=out)
        if device != "cpu":
            torch.cuda.synchronize()

    return 2 * size**3 / median_seconds(multiply) / 1e9


def read_gbps(megabytes: int = 400, huge_pages: bool = False) -> float:
    """Memory read by all threads, far more of it than the caches hold, in GB/s."""
    data = (zeros_in_huge_pages if huge_pages else torch.zeros)((megabytes * 250_000,), dtype=torch.float32).fill_(1)
    return megabytes / 1000 / median_seconds(data.sum)


def print_limits() -> tuple[float, float]:
    """Measure, print and return (GFLOP/s, GB/s)."""
    gflops, gbps = matmul_gflops(), read_gbps()
    reading = f"read {gbps:.1f} GB/s, {read_gbps(huge_pages=True):.1f} in huge pages"
    print(f"machine: {torch.get_num_threads()} threads, matrix product {gflops:.0f} GFLOP/s, {reading}\n")
    return gflops, gbps


if __name__ == "__main__":
    print_limits()
