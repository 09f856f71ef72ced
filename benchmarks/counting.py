"""What counting reaches on a text, beside compressors, and beside a network where a checkpoint is named.

    python benchmarks/counting.py [TEXT ...] [--checkpoint RUN] [--window 1024] [--windows 40]

Bits per byte of the last tenth of each text, the first nine tenths being known to all: counted here, given to a
compressor before. `windows`: every window of so many bytes alone after the training text. `reading on`: the whole last
tenth after it. A compressor's figure is the size of training text and more, less that of the training text.

xz is always measured, PPMd with `pip install pyppmd`, zpaq -m5 where the program is installed. With those each window
costs a pass over the training text, so so many of them are measured, at equal distances. The format of zpaq may add up
to 24 bytes to a window: its figures there are upper bounds. A TEXT is a path, FILE:BYTES for the first bytes of one,
`shakespeare` (the complete works) or `licences` (LICENCES of Debian, joined).

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
from debian_texts import licences

from yinggem.commands.evaluate import main as evaluate
from yinggem.memory.index import build_index
from yinggem.memory.ngram_memory import NgramMemory
from yinggem.text.assets import SHAKESPEARE, read_asset

LICENCES = ("Apache-2.0", "GFDL-1.3", "GPL-3", "LGPL-2.1", "MPL-2.0")
AT_ONCE = 16  # windows that are counted at once
PARTS = 16  # of a text that is read on: what was read joins the training text so often, and a window counts itself
SIZES: dict[str, Callable[[bytes], int]] = {
    "xz": lambda text: len(lzma.compress(text, preset=9 | lzma.PRESET_EXTREME)),
}


def ppmd_size(text: bytes) -> int:
    """Bytes of PPMd variant H, order 16, 256 MB."""
    import pyppmd

    return len(pyppmd.compress(text, max_order=16, mem_size=256 << 20, variant="H"))


def zpaq_size(text: bytes) -> int:
    """Bytes of an archive of zpaq -m5."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "text").write_bytes(text)
        subprocess.run(["zpaq", "a", "a.zpaq", "text", "-m5"], cwd=folder, capture_output=True, check=True)
        return Path(folder, "a.zpaq").stat().st_size


def counting(train: bytes, val: bytes, window: int) -> dict[str, float]:
    """Bits per byte of Kneser-Ney counts and of the counts of the window, mixed with fixed weights."""
    ids = np.frombuffer(train, np.uint8)
    start = time.process_time()
    index = build_index(ids, 256)
    seconds = time.process_time() - start
    with tempfile.TemporaryDirectory() as folder:
        memory = NgramMemory(ids, 256, cache_dir=Path(folder))
        rows = np.frombuffer(val, np.uint8).astype(np.int64)
        count = max(1, (len(rows) - 1) // window)
        windows = np.stack([rows[k * window : (k + 1) * window + 1] for k in range(count)])
        parts = [bits_of(memory, part) for part in np.array_split(windows, -(-count // AT_ONCE))]
        alone, mixed = (np.concatenate(part).mean() for part in zip(*parts, strict=True))
        places = np.array_split(np.arange(count), min(PARTS, count))
        read = [bits_of(memory.reading_on(rows[: part[0] * window + 1]), windows[part])[1] for part in places]
    found = {"training text": alone, "windows": mixed, "reading on": np.concatenate(read).mean()}
    return {**found, "seconds to build": seconds, "bytes a token": index.nbytes / len(ids)}


def bits_of(memory: NgramMemory, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(B,) bits a byte by the training text's counts alone, and with those of the rows (B, T + 1)."""
    counted, features = memory.sources(rows)
    mixed = (memory.scoring.weights(features, network=False)[..., 1:] * counted).sum(-1)
    return -np.log2(counted[..., 0]).mean(-1), -np.log2(mixed).mean(-1)


def compressed(size: Callable[[bytes], int], train: bytes, val: bytes, window: int, most: int) -> dict[str, float]:
    """Bits per byte of a compressor that has read the training text, `most` windows of it at most.

    Those of a short text overlap, so that all of it is measured.
    """
    alone = size(train)
    starts = np.linspace(0, max(0, len(val) - window), min(most, max(1, -(-len(val) // window)))).astype(int)
    pieces = [val[start : start + window] for start in starts]
    by_windows = sum(size(train + piece) - alone for piece in pieces) / max(1, sum(map(len, pieces)))
    return {"windows": 8 * by_windows, "reading on": 8 * (size(train + val) - alone) / len(val)}


def text_of(name: str) -> bytes:
    """A text by its name on the command line."""
    if name == "shakespeare":
        return read_asset(SHAKESPEARE)
    if name == "licences":
        return licences(LICENCES).encode()
    path, _, size = name.partition(":")
    return Path(path).read_bytes()[: int(size) if size else None]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("texts", nargs="*", default=["shakespeare"])
    parser.add_argument("--checkpoint")
    parser.add_argument("--window", type=int, default=1024)
    parser.add_argument("--windows", type=int, default=40)
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
        text = text_of(name)
        cut = int(len(text) * 0.9)
        rows = {"counting": counting(text[:cut], text[cut:], options.window)}
        about = text[:cut], text[cut:], options.window, options.windows
        rows |= {kind: compressed(size, *about) for kind, size in SIZES.items()}
        for kind, figures in rows.items():
            print(
                f"{name:20} {kind:10}",
                *(f"{what} {value:.3f}" for what, value in figures.items()),
                sep="  ",
                flush=True,
            )
    if options.checkpoint:
        evaluate(["--checkpoint", options.checkpoint])


if __name__ == "__main__":
    main()
