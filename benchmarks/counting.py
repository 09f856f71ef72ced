"""What counting reaches on a text, beside compressors, and beside a network where a checkpoint is named.

    python benchmarks/counting.py [TEXT ...] [--checkpoint RUN] [--window 1024]

Bits per byte of the last tenth of each text, the first nine tenths being known to all: counted here, given to a
compressor before. `windows`: every window of so many bytes alone after the training text. `reading on`: the whole last
tenth after it. A compressor's figure is the size of training text and more, less that of the training text.

xz is always measured, PPMd with `pip install pyppmd`, zpaq -m5 where the program is installed. With those each window
costs a pass over the training text, so WINDOWS of them are measured, at equal distances. A TEXT is a path, or
`shakespeare`.

The network of a checkpoint that has a memory is measured on the validation split of its run, with and without it.
"""

import argparse
import lzma
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from yinggem.commands.evaluate import main as evaluate
from yinggem.memory.index import build_index
from yinggem.memory.ngram_memory import COUNTING, NgramMemory
from yinggem.text.assets import SHAKESPEARE, read_asset

WINDOWS = 40
SIZES: dict[str, Callable[[bytes], int]] = {
    "xz": lambda text: len(lzma.compress(text, preset=9 | lzma.PRESET_EXTREME)),
}


def ppmd_size(text: bytes) -> int:
    """Bytes of PPMd variant H, order 16, 256 MB."""
    import pyppmd

    return len(pyppmd.compress(text, max_order=16, mem_size=256 << 20))


def zpaq_size(text: bytes) -> int:
    """Bytes of an archive of zpaq -m5."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "text").write_bytes(text)
        subprocess.run(["zpaq", "a", "a.zpaq", "text", "-m5"], cwd=folder, capture_output=True, check=True)
        return Path(folder, "a.zpaq").stat().st_size


def counting(train: bytes, val: bytes, window: int) -> dict[str, float]:
    """Bits per byte of Kneser-Ney counts and of the counts of the window, mixed with fixed weights."""
    ids = np.frombuffer(train, np.uint8)
    start = time.perf_counter()
    build_index(ids, 256)
    memory, seconds = NgramMemory(ids, 256), time.perf_counter() - start
    rows = np.frombuffer(val, np.uint8).astype(np.int64)
    count = (len(rows) - 1) // window
    windows = np.stack([rows[k * window : (k + 1) * window + 1] for k in range(count)])
    counted, features = memory.sources(windows)
    mixed = (memory.scoring.weights(features, COUNTING)[..., 1:] * counted).sum(-1)
    on, known = memory.sources(rows[None])
    read_on = (memory.scoring.weights(known, COUNTING)[..., 1:] * on).sum(-1)
    bits = {"training text": counted[..., 0], "and windows": mixed, "reading on": read_on}
    return {name: float(-np.log2(each).mean()) for name, each in bits.items()} | {"seconds to build": seconds}


def compressed(size: Callable[[bytes], int], train: bytes, val: bytes, window: int) -> dict[str, float]:
    """Bits per byte of a compressor that has read the training text."""
    alone = size(train)
    starts = np.linspace(0, max(0, len(val) - window), min(WINDOWS, max(1, len(val) // window))).astype(int)
    pieces = [val[start : start + window] for start in starts]
    by_windows = sum(size(train + piece) - alone for piece in pieces) / sum(map(len, pieces))
    return {"windows": 8 * by_windows, "reading on": 8 * (size(train + val) - alone) / len(val)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("texts", nargs="*", default=["shakespeare"])
    parser.add_argument("--checkpoint")
    parser.add_argument("--window", type=int, default=1024)
    options = parser.parse_args()
    try:
        import pyppmd  # noqa: F401

        SIZES["PPMd"] = ppmd_size
    except ImportError:
        print("PPMd is left out: pip install pyppmd")
    if shutil.which("zpaq"):
        SIZES["zpaq -m5"] = zpaq_size
    else:
        print("zpaq is left out: it is not installed")
    for name in options.texts:
        text = read_asset(SHAKESPEARE) if name == "shakespeare" else Path(name).read_bytes()
        cut = int(len(text) * 0.9)
        rows = {"counting": counting(text[:cut], text[cut:], options.window)}
        rows |= {kind: compressed(size, text[:cut], text[cut:], options.window) for kind, size in SIZES.items()}
        for kind, figures in rows.items():
            print(f"{name:20} {kind:10}", *(f"{what} {value:.3f}" for what, value in figures.items()), sep="  ")
    if options.checkpoint:
        evaluate(["--checkpoint", options.checkpoint])


if __name__ == "__main__":
    main()
