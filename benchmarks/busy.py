"""What is left of the speed of decoding where two other programs want the cores too: the base shape, float32.

    python benchmarks/busy.py [--rounds 3] [--tokens 64]

The neighbours are single-threaded loops in sessions of their own, which Linux schedules as groups of their own where it
groups by session (/proc/sys/kernel/sched_autogroup_enabled). Each contender decodes in a process of its own, alone and
then beside them, in every round; the median of the rounds. It counts all the time that the tokens took.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time

import numpy as np
import torch
from llama import CONFIG, random_weights
from machine import measure_apart, print_limits

from yinggem.common.processors import quota_cores
from yinggem.engine.engine import Engine
from yinggem.inference.generation import generate
from yinggem.inference.networks.torch_network import TorchNetwork
from yinggem.inference.sampling import Sampling
from yinggem.model.transformer import Transformer

GREEDY = Sampling(temperature=0.0, repetition_penalty=1.0)
PROMPT = 32
LOOP = "while True: pass"


def measure(who: str, threads: int, tokens: int) -> float:
    """Tokens per second of one text, its prompt left out."""
    prompt = np.random.default_rng(1).integers(0, CONFIG.vocab_size, PROMPT)
    if who == "torch":
        torch.set_num_threads(threads)
        model = Transformer(CONFIG).eval()
        model.load_state_dict({name: torch.from_numpy(array) for name, array in random_weights().items()})
        steps = generate(TorchNetwork(model), prompt[None], tokens + 1, GREEDY, [0])
        next(steps)
        start = time.perf_counter()
        for _ in steps:
            pass
    else:
        engine = Engine(CONFIG, random_weights(), threads=threads)
        token = int(engine.read(0, prompt).argmax())
        start = time.perf_counter()
        for _ in range(tokens):
            token = int(engine.read(0, [token]).argmax())
    return tokens / (time.perf_counter() - start)


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options.one[0], *map(int, options.one[1:]))))
        return
    print_limits()
    cores = quota_cores()
    contenders = [("engine", cores), ("engine", 1), ("torch", cores)]
    rates: dict[tuple[str, int, bool], list[float]] = {}
    for _ in range(options.rounds):
        for who, threads in contenders:
            for busy in (False, True):
                loops = [
                    subprocess.Popen([sys.executable, "-c", LOOP], start_new_session=True) for _ in range(2 * busy)
                ]
                try:
                    rate = measure_apart(__file__, who, threads, options.tokens)
                finally:
                    for loop in loops:
                        loop.kill()
                        loop.wait()
                rates.setdefault((who, threads, busy), []).append(rate)
    print(f"\n{'':22}{'alone':>10}{'beside two':>12}{'share':>8}")
    for who, threads in contenders:
        alone, beside = (statistics.median(rates[who, threads, busy]) for busy in (False, True))
        print(f"{who}, {threads} threads{'':6}{alone:12.1f}{beside:12.1f}{beside / alone:8.2f}")


if __name__ == "__main__":
    main()
