"""Weights of 8 and 4 bits against float32: speed at the base shape, size of files, bits per byte of a trained model.

    python benchmarks/quantization.py [--tokens 48] [--checkpoint FILE --data tinyshakespeare --data-path FILE]

The models decode in turn, a token each, so that whatever else the machine does hits all; times are medians. The
weights are random there, which the speed does not depend on. Quality is measured where a checkpoint is named: the
evaluation of `python -m yinggem evaluate`, also with the weights rounded to 8 bits and the inputs left as they are.
"""

import argparse
import copy
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial

import torch
from decoding import make_model
from machine import print_limits
from torch import nn

from yinggem.inference.checkpoint import load_model, save_model
from yinggem.inference.evaluation import evaluate, trained_context_length
from yinggem.inference.files.stored_model import read_model
from yinggem.inference.generation import generate
from yinggem.inference.networks.torch_network import TorchNetwork
from yinggem.inference.sampling import Sampling
from yinggem.model.config import QUANTIZATIONS, ModelConfig
from yinggem.model.kernels.integer_matrix import Int8Matrix
from yinggem.model.quantization import quantize
from yinggem.model.transformer import Transformer
from yinggem.text.corpus import open_corpus
from yinggem.text.splitting import tokenize
from yinggem.text.tokenizer import GPT2Tokenizer

CONFIG = ModelConfig(vocab_size=50257)
GREEDY = Sampling(temperature=0.0, repetition_penalty=1.0)
PROMPT, LONG_PROMPT = 64, 2048


def seconds_per_step(models: dict[str, Transformer], batch: int, tokens: int) -> dict[str, float]:
    """Median time of a decoding step of `batch` rows, the models taking turns."""
    ids = torch.randint(CONFIG.vocab_size, (batch, PROMPT)).numpy()
    networks = {name: TorchNetwork(model) for name, model in models.items()}
    steps = {name: iter(generate(one, ids, tokens, GREEDY, range(batch))) for name, one in networks.items()}
    times: dict[str, list[float]] = {name: [] for name in models}
    for _ in range(tokens):
        for name, step in steps.items():
            start = time.perf_counter()
            next(step)
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(gaps[3:]) for name, gaps in times.items()}


def seconds_to_read(model: Transformer, repeats: int = 3) -> float:
    """Median time until the first token after a long prompt."""
    ids, times = torch.randint(CONFIG.vocab_size, (1, LONG_PROMPT)).numpy(), []
    for _ in range(repeats):
        start = time.perf_counter()
        next(iter(generate(TorchNetwork(model), ids, 1, GREEDY, [0])))
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def print_speed(tokens: int) -> None:
    """Decoding of 1 and 8 rows, prefill, and the size of the files."""
    torch.manual_seed(0)
    floats = make_model()
    models = {"float32": floats} | {kind: quantize(copy.deepcopy(floats), kind) for kind in QUANTIZATIONS}
    print(f"{'base shape':28}{'float32':>12}" + "".join(f"{kind:>12}{'ratio':>8}" for kind in QUANTIZATIONS))
    for batch in (1, 8):
        rates = {name: batch / seconds for name, seconds in seconds_per_step(models, batch, tokens).items()}
        print_row(f"tokens/s, batch {batch}", rates, lambda floats, other: other / floats)
    seconds = {name: seconds_to_read(model) for name, model in models.items()}
    print_row(f"seconds, prompt of {LONG_PROMPT}", seconds, lambda floats, other: floats / other)
    with tempfile.TemporaryDirectory() as folder:
        sizes = {}
        for name, model in models.items():
            save_model(f"{folder}/{name}", model, GPT2Tokenizer())
            sizes[name] = os.path.getsize(f"{folder}/{name}") / 1e6
    print_row("checkpoint, MB", sizes, lambda floats, other: floats / other)


def print_row(title: str, values: dict[str, float], ratio: Callable[[float, float], float]) -> None:
    """One line of the table."""
    floats = values["float32"]
    others = "".join(f"{values[kind]:12.2f}{ratio(floats, values[kind]):7.2f}x" for kind in QUANTIZATIONS)
    print(f"{title:28}{floats:12.2f}{others}", flush=True)


def rounded(model: Transformer) -> Transformer:
    """Every matrix as 8-bit integers make it, computed with as floats."""
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Embedding):
            module.weight.data = Int8Matrix(module.weight).weight
    return model


def print_quality(path: str, data: str, data_path: str | None) -> None:
    """Bits per byte of the validation split."""
    model, tokenizer = load_model(path)
    split = tokenize(open_corpus(data, data_path), tokenizer, None, 0.1, "characters")
    length = trained_context_length(read_model(path).entry)

    def bits(model: Transformer) -> float:
        return evaluate(model, split.val, split.token_bytes, length).to_dict()["bits_per_byte"]

    floats = bits(model)
    print(f"\n{'bits per byte':28}{floats:12.5f}")
    contenders = {kind: partial(load_model, path, quantization=kind) for kind in QUANTIZATIONS}
    contenders["int8, inputs floats"] = lambda: (rounded(load_model(path)[0]), tokenizer)
    for name, make in contenders.items():
        value = bits(make()[0])
        print(f"{name:28}{value:12.5f}{value / floats - 1:+10.3%}")


def main() -> None:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--checkpoint")
    parser.add_argument("--data", default="shakespeare")
    parser.add_argument("--data-path")
    options = parser.parse_args()
    print_limits()
    print_speed(options.tokens)
    if options.checkpoint:
        print_quality(options.checkpoint, options.data, options.data_path)


if __name__ == "__main__":
    main()
