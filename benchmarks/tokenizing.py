"""How fast a large text becomes a token file, against tiktoken's own batch encoder, and in how much memory.

    python benchmarks/tokenizing.py --megabytes 1000

Ours is everything: reading and verifying the file, encoding on all cores, writing, flushing to disk, verifying again,
in a process of its own whose peak memory is read from the system. Learning the vocabulary, where there is one to learn,
has a column of its own. The peer is `tiktoken.Encoding.encode_ordinary_batch` with as many threads as cores, on
documents of the same text already in memory, its result thrown away.
"""

import argparse
import itertools
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from yinggem.common.processors import usable_cores
from yinggem.text import bpe
from yinggem.text.assets import SHAKESPEARE, read_asset
from yinggem.text.corpus import open_corpus
from yinggem.text.splitting import tokenize
from yinggem.text.tokenizer import KINDS, Tokenizer

DOCUMENT_CHARACTERS = 1 << 16
PEER_MEGABYTES = 64  # at most; its lists of Python integers would fill the memory
ROW = "{:9} {:>6} {:>6} {:>10} {:>7} {:>7} {:>14} {:>6} {:>8}"


def measure_ours(name: str, path: str, folder: str) -> dict[str, float]:
    """Seconds to open, fit, tokenize, and tokenize again from the cache; peak resident MB of this process."""
    times, tokenizer = [time.perf_counter()], KINDS[name]()
    corpus = open_corpus("text", path, folder)
    times.append(time.perf_counter())
    tokenizer.fit(corpus.iter_text)
    times.append(time.perf_counter())
    for _ in range(2):
        tokenize(corpus, tokenizer, folder)
        times.append(time.perf_counter())
    seconds = [end - start for start, end in itertools.pairwise(times)]
    peak = sum(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return dict(zip(("open", "fit", "tokenize", "again"), seconds, strict=True), peak=peak / 1e3)


def measure_peer(tokenizer: Tokenizer, text: str, megabytes: int) -> float:
    """Megabytes per second of tiktoken's batch encoder with this vocabulary."""
    encoding = bpe.build_encoding(tokenizer.tokens if tokenizer.name == "bpe" else bpe.gpt2_tokens())
    size = min(megabytes, PEER_MEGABYTES) * 1_000_000
    text = (text * (1 + size // len(text)))[:size]
    documents = [text[i : i + DOCUMENT_CHARACTERS] for i in range(0, len(text), DOCUMENT_CHARACTERS)]
    start = time.perf_counter()
    encoding.encode_ordinary_batch(documents, num_threads=usable_cores())
    return size / 1e6 / (time.perf_counter() - start)


def run_ours(names: list[str], text: str, megabytes: int) -> dict[str, dict[str, float]]:
    """`measure_ours` of every tokenizer, each in a process of its own; adds MB/s without fitting."""
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "large.txt")
        with open(path, "w") as file:
            for _ in range(0, megabytes * 1_000_000, len(text)):
                file.write(text)
        for name in names:
            command = [sys.executable, __file__, "--tokenizer", name, "--ours", str(path), folder]
            result = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
            results[name] = result | {"rate": path.stat().st_size / 1e6 / (result["open"] + result["tokenize"])}
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=1000)
    parser.add_argument("--tokenizer", nargs="+", choices=KINDS, default=["gpt2"])
    parser.add_argument("--ours", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.ours:
        print(json.dumps(measure_ours(arguments.tokenizer[0], *arguments.ours)))
        return
    text = read_asset(SHAKESPEARE).decode("ascii")
    # All of ours first: a child's peak memory starts at what its parent held, and the peer makes this process large.
    results = run_ours(arguments.tokenizer, text, arguments.megabytes)
    print(f"{usable_cores()} cores, {arguments.megabytes} MB of English")
    print(
        ROW.format("tokenizer", "open s", "fit s", "tokenize s", "again s", "MB/s", "tiktoken MB/s", "ratio", "peak MB")
    )
    for name, result in results.items():
        peer, ratio = "", ""
        if name in ("gpt2", "bpe"):
            tokenizer = KINDS[name]()
            tokenizer.fit(lambda: [text])
            rate = measure_peer(tokenizer, text, arguments.megabytes)
            peer, ratio = f"{rate:.1f}", f"{result['rate'] / rate:.2f}"
        figures = [f"{result[key]:.1f}" for key in ("open", "fit", "tokenize", "again", "rate")]
        print(ROW.format(name, *figures, peer, ratio, f"{result['peak']:.0f}"))


if __name__ == "__main__":
    main()
