"""Decoding in C against the torch path, in turns: the quickstart's shape on one thread, and the base shape.

    python benchmarks/engine.py [--shapes quickstart base] [--rounds 3] [--threads N]

Random weights, a prompt of 32, positions 32 to 160; each contender in a process of its own, all of them in every round,
and the median of the rounds. Greedy, and with the default filters. "memory" is the engine with the counts of the works
beside the network. At the base shape the speed that reading the weights allows stands beside it.
"""

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from machine import measure_apart, print_limits, read_gbps

from yinggem.common.processors import quota_cores
from yinggem.engine.engine import Engine
from yinggem.engine.memory import EngineMemory
from yinggem.inference.generation import generate
from yinggem.inference.networks.torch_network import TorchNetwork
from yinggem.inference.sampling import Sampling
from yinggem.memory.ngram_memory import NgramMemory
from yinggem.model.config import ModelConfig
from yinggem.model.quantization import quantize
from yinggem.model.transformer import Transformer
from yinggem.text.assets import SHAKESPEARE, read_asset
from yinggem.text.tokenizer import BPETokenizer

SHAPES = {
    "quickstart": ModelConfig(
        2048, hidden_size=128, num_hidden_layers=3, num_attention_heads=2, intermediate_size=344, attention_window=64,
        bias=False, qk_norm=True,
    ),
    "base": ModelConfig(50257),
}  # fmt: skip
BYTES = {"float32": 4.0, "bfloat16": 2.0, "int8": 1.0, "int4": 0.625}  # of a weight, scales included
SAMPLINGS = {"greedy": Sampling(temperature=0.0, repetition_penalty=1.0), "default": Sampling()}
PROMPT, TOKENS, CHUNK = 32, 128, 32
SHARPEN = {"quickstart": 12, "base": 6}  # as in decoding.py: so that ten to a hundred ids are kept


def make_model(shape: str) -> Transformer:
    """Random weights."""
    torch.manual_seed(0)
    model = Transformer(SHAPES[shape]).eval().requires_grad_(False)
    model.head.weight.mul_(SHARPEN[shape])
    return model


def measure(shape: str, contender: str, storage: str, sampling: str, threads: int) -> float:
    """Tokens per second of the fastest of some texts, in this process: a neighbour's turn hits one or two of them."""
    torch.set_num_threads(threads)
    model, chosen = make_model(shape), SAMPLINGS[sampling]
    prompt = torch.randint(SHAPES[shape].vocab_size, (1, PROMPT)).tolist()[0]
    if contender == "torch":
        seconds_of = torch_writer(model, storage, prompt, chosen)
    else:
        seconds_of = engine_writer(model, storage, prompt, chosen, threads, works() if contender == "memory" else None)
    return TOKENS / min(seconds_of() for _ in range(3 if shape == "base" else 10))


def works() -> NgramMemory:
    """Of the training part of the complete works, in the quickstart's tokens."""
    text, tokenizer = read_asset(SHAKESPEARE).decode(), BPETokenizer(vocab_size=2048)
    tokenizer.fit(lambda: [text])
    return NgramMemory(tokenizer.encode_array(text[: len(text) * 9 // 10]), 2048)


def torch_writer(model: Transformer, storage: str, prompt: list[int], sampling: Sampling) -> Callable[[], float]:
    """A function that writes a text with torch and says how long its tokens took."""
    if storage != "float32":
        quantize(model, storage)
    network = TorchNetwork(model)

    def seconds() -> float:
        steps = generate(network, np.array([prompt]), TOKENS + 1, sampling, [0])
        next(steps)
        start = time.perf_counter()
        list(steps)
        return time.perf_counter() - start

    return seconds


def engine_writer(
    model: Transformer, storage: str, prompt: list[int], sampling: Sampling, threads: int, memory: NgramMemory | None
) -> Callable[[], float]:
    """The same with the engine, drawing CHUNK tokens a call; what was typed is the prompt."""
    weights = {name: x.numpy() for name, x in model.state_dict().items()}
    engine = Engine(model.config, weights, storage=storage, threads=threads)

    def seconds() -> float:
        engine.reset(0)
        engine.read(0, np.array(prompt))
        counting = None if memory is None else EngineMemory(memory, prompt, np.array(prompt), 1.0)
        drawn = engine.generate(0, sampling, 0, prompt, 0, 1, memory=counting)
        start = time.perf_counter()
        while len(drawn) <= TOKENS:
            drawn += engine.generate(0, sampling, 0, prompt + drawn, len(drawn), CHUNK, memory=counting)
        return time.perf_counter() - start

    return seconds


def contenders(shape: str) -> list[tuple[str, str, str]]:
    """(who, storage, sampling)."""
    kinds = ["float32", "int8", "int4"]
    who = [("engine", kind) for kind in [*kinds, "bfloat16"]]
    who += (
        [("memory", "float32"), ("torch", "float32")] if shape == "quickstart" else [("torch", kind) for kind in kinds]
    )
    return [(*one, sampling) for one in who for sampling in SAMPLINGS]


def print_table(shape: str, rounds: int, threads: int) -> None:
    """All contenders of a shape."""
    config = SHAPES[shape]
    weights = config.parameters - config.vocab_size * config.hidden_size  # the embedding is looked up
    measured: dict[tuple[str, str, str], list[float]] = {one: [] for one in contenders(shape)}
    shares: dict[tuple[str, str, str], list[float]] = {one: [] for one in measured}
    for _ in range(rounds):
        for one, rates in measured.items():
            before = read_gbps()
            rates.append(measure_apart(__file__, shape, *one, str(threads)))
            limit = (before + read_gbps()) / 2 * 1e9 / (weights * BYTES[one[1]])
            shares[one].append(rates[-1] / limit)
    print(f"\n{shape} on {threads} threads{'':20}{'tokens/s':>10}{'x torch float32':>17}{'of read limit':>15}")
    for one, rates in measured.items():
        torch_rate = statistics.median(measured["torch", "float32", one[2]])
        rate, share = statistics.median(rates), statistics.median(shares[one])
        limit = f"{share:15.0%}" if shape == "base" else ""
        print(f"{' '.join(one):40}{rate:10.1f}{rate / torch_rate:17.1f}{limit}")


def main() -> None:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=quota_cores())
    parser.add_argument("--one", nargs=5, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(*options.one[:4], int(options.one[4]))))
        return
    os.environ.setdefault("OMP_NUM_THREADS", str(options.threads))
    print_limits()
    for shape in options.shapes:
        print_table(shape, options.rounds, 1 if shape == "quickstart" else options.threads)


if __name__ == "__main__":
    main()
