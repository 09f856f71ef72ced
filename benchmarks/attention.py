"""Cost of one training step against context length, at W=512 and equal tokens: ours and transformers' Mistral.

    python benchmarks/attention.py --tokens 8192 --lengths 1024 8192
    python benchmarks/attention.py --tokens 8192 --lengths 1024 2048 4096 8192 --plot docs/context_length.png

Seconds and peak memory should not depend on the length; a (T, T) mask makes the peer's grow with it. Every row is a run
of benchmarks/training_step.py in a process of its own.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

from machine import print_limits

STEP = Path(__file__).with_name("training_step.py")


def measure(name: str, batch: int, length: int, steps: int) -> dict[str, float]:
    """Median seconds and peak GB of one contender of training_step.py."""
    command = [sys.executable, str(STEP), "--measure", name, "--steps", str(steps)]
    command += ["--batch", str(batch), "--length", str(length)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])


def main() -> None:
    """Measure every length for every contender and print the table; ratios are to the contender's first length."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=16384)
    parser.add_argument("--lengths", type=int, nargs="+", default=[1024, 4096, 16384])
    parser.add_argument("--steps", type=int, default=1)
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw milliseconds and peak GB against the length")
    parser.add_argument("--names", nargs="+", default=["yinggem", "transformers sdpa"])
    options = parser.parse_args()
    print_limits()
    print(f"{'':20}{'T':>7}{'B':>5}{'ms/token':>10}{'ratio':>7}{'peak GB':>9}{'ratio':>7}")
    measured: dict[str, list[tuple[int, float, float]]] = {name: [] for name in options.names}
    for name in options.names:
        first: dict[str, float] = {}
        for length in options.lengths:
            batch = max(1, options.tokens // length)
            result = measure(name, batch, length, options.steps)
            first = first or result
            time_ratio, memory_ratio = (result[key] / first[key] for key in ("seconds", "gigabytes"))
            milliseconds = 1000 * result["seconds"] / (batch * length)
            measured[name].append((length, milliseconds, result["gigabytes"]))
            print(
                f"{name:20}{length:7}{batch:5}{milliseconds:10.2f}{time_ratio:7.2f}"
                f"{result['gigabytes']:9.2f}{memory_ratio:7.2f}",
                flush=True,
            )
    if options.plot:
        draw(measured, options.tokens, options.plot)


def draw(measured: dict[str, list[tuple[int, float, float]]], tokens: int, path: Path) -> None:
    """Two panels: time per token and peak memory against context length, one line a contender."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.6), dpi=110, layout="constrained")
    left, right = figure.subplots(1, 2)
    colors = ("#14507d", "#c8501e", "#5b8c3a", "#888888")
    for (name, points), color in zip(measured.items(), colors, strict=False):
        lengths, milliseconds, gigabytes = zip(*points, strict=True)
        left.plot(lengths, milliseconds, marker="o", color=color, label=name)
        right.plot(lengths, gigabytes, marker="o", color=color, label=name)
    for axes, what in ((left, "ms per token"), (right, "peak GB")):
        axes.set_xscale("log", base=2)
        axes.set(xlabel="context length", ylabel=what, ylim=(0, None))
        axes.grid(alpha=0.25)
        axes.legend()
    figure.suptitle(
        f"One training step of {tokens:,} tokens, base shape, window 512, 2 CPU cores, float32", fontsize=10
    )
    figure.savefig(path)


if __name__ == "__main__":
    main()
