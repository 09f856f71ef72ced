"""x @ weight.T in float32, at the base shape: yinggem.model.kernels.matmul against torch's F.linear, by rows.

    python benchmarks/products.py

Both alternate in one process, the median of many; forward without gradients, and forward with backward.
"""

import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from machine import print_limits
from torch import Tensor

from yinggem.model.kernels.matmul import linear, prepare_linear

HIDDEN = 768
OUTS = {"attention out": 768, "qkv": 2304, "head": 50257}
Product = Callable[[Tensor, Tensor], Tensor]


def alternating(ours: Callable[[], object], theirs: Callable[[], object], seconds: float = 1.5) -> tuple[float, float]:
    """Median seconds of both, called by turns."""
    times: tuple[list[float], list[float]] = ([], [])
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times[0]) < 6:
        for function, kept in zip((ours, theirs), times, strict=True):
            start = time.perf_counter()
            function()
            kept.append(time.perf_counter() - start)
    return statistics.median(times[0][1:]), statistics.median(times[1][1:])


def trained(product: Product, x: Tensor, weight: Tensor) -> None:
    """One product and its gradients."""
    product(x, weight).backward(torch.ones(len(x), len(weight)))
    x.grad = weight.grad = None


def main() -> None:
    """Print the tables."""
    print_limits()
    print(f"{'rows':>5} {'matrix':>14} {'':>9} {'ours ms':>9} {'F.linear ms':>12} {'times as fast':>14}")
    for rows in (1, 2, 4, 8, 512, 2048):
        for name, out in OUTS.items():
            if rows > 100 and name == "head":
                continue  # the loss takes the head in chunks of its own
            x, weight = torch.randn(rows, HIDDEN), torch.randn(out, HIDDEN)
            with torch.no_grad():
                ours = (rows < 100 and prepare_linear(weight, None, rows)) or (lambda x, w=weight: linear(x, w))
                kind = "decode" if rows < 100 else "forward"
                show(rows, name, kind, lambda f=ours, x=x: f(x), lambda x=x, w=weight: F.linear(x, w))
            if rows > 100:
                x.requires_grad_(), weight.requires_grad_()
                mine, torchs = (lambda f=f, x=x, w=weight: trained(f, x, w) for f in (linear, F.linear))
                show(rows, name, "training", mine, torchs)


def show(rows: int, name: str, kind: str, ours: Callable[[], object], theirs: Callable[[], object]) -> None:
    """Measure one line of the table."""
    mine, torchs = alternating(ours, theirs)
    print(f"{rows:>5} {name:>14} {kind:>9} {1e3 * mine:>9.3f} {1e3 * torchs:>12.3f} {torchs / mine:>14.2f}")


if __name__ == "__main__":
    main()
