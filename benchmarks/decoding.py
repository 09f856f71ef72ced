"""Decoding at the base shape, float32: ours against transformers' generate, and against the memory-read limit.

    python benchmarks/decoding.py [--tokens 48] [--long]

Same shape, window and kind of weights (random); greedy, so that both do the same work; each contender in a process of
its own. Every token reads each weight that multiplies once: bytes of those weights / measured read speed is the limit.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator

import torch
from machine import print_limits
from torch import Tensor

from yinggem.config import ModelConfig
from yinggem.generation import generate
from yinggem.sampling import Sampling
from yinggem.transformer import Transformer

CONFIG = ModelConfig(vocab_size=50257)
WEIGHT_BYTES = 4 * (CONFIG.parameters - CONFIG.vocab_size * CONFIG.hidden_size)  # the embedding is looked up
GREEDY, DEFAULT = Sampling(temperature=0.0, repetition_penalty=1.0), Sampling()
PEERS = ("dynamic", "static")  # caches of transformers
PROMPT = 64


def stamps(steps: Iterator[Tensor]) -> list[float]:
    """The time at which each token was there, after the start as first entry."""
    times = [time.perf_counter()]
    for _ in steps:
        times.append(time.perf_counter())
    return times


class Clock:
    """A logits processor that notes when it is called: once per token of transformers' generate."""

    def __init__(self) -> None:
        self.times = [time.perf_counter()]

    def __call__(self, _ids: Tensor, scores: Tensor) -> Tensor:
        self.times.append(time.perf_counter())
        return scores


def measure_yinggem(batch: int, prompt: int, tokens: int, sampling: Sampling) -> list[float]:
    """Time stamps of our generate."""
    torch.manual_seed(0)
    model, ids = Transformer(CONFIG).eval(), torch.randint(CONFIG.vocab_size, (batch, prompt))
    list(generate(model, ids[:, :8], 4, sampling, range(batch)))
    return stamps(generate(model, ids, tokens, sampling, range(batch)))


def measure_transformers(batch: int, prompt: int, tokens: int, cache: str) -> list[float]:
    """Time stamps of transformers' generate with Mistral of the same shape."""
    from transformers import LogitsProcessorList, MistralConfig, MistralForCausalLM
    from transformers.utils import logging

    logging.set_verbosity_error()
    model = MistralForCausalLM(
        MistralConfig(
            vocab_size=CONFIG.vocab_size, hidden_size=CONFIG.hidden_size, intermediate_size=CONFIG.intermediate_size,
            num_hidden_layers=CONFIG.num_hidden_layers, num_attention_heads=CONFIG.num_attention_heads,
            num_key_value_heads=CONFIG.key_value_heads, sliding_window=CONFIG.attention_window,
            hidden_act="gelu_pytorch_tanh", attn_implementation="sdpa", max_position_embeddings=1 << 16,
            eos_token_id=None, pad_token_id=0,
        )
    ).eval()  # fmt: skip
    ids = torch.randint(CONFIG.vocab_size, (batch, prompt))
    options = {"do_sample": False, "disable_compile": True}
    if cache != "dynamic":
        options["cache_implementation"] = cache
    model.generate(ids[:, :8], attention_mask=torch.ones_like(ids[:, :8]), max_new_tokens=4, **options)
    clock = Clock()
    with torch.inference_mode():
        processors = LogitsProcessorList([clock])
        model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens, logits_processor=processors, **options
        )
    return clock.times


def measure(name: str, batch: int, prompt: int, tokens: int) -> list[float]:
    """Time stamps of a contender, in this process."""
    if name in PEERS:
        return measure_transformers(batch, prompt, tokens, name)
    return measure_yinggem(batch, prompt, tokens, DEFAULT if name == "sampled" else GREEDY)


def measure_apart(name: str, batch: int, prompt: int, tokens: int) -> list[float]:
    """The same in a fresh process."""
    command = [sys.executable, __file__, "--one", name, str(batch), str(prompt), str(tokens)]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return json.loads(out.splitlines()[-1])


def seconds_per_token(times: list[float], first: int = 1, last: int | None = None) -> float:
    """Median time between tokens, the prompt's share left out."""
    gaps = [after - before for before, after in zip(times[first:], times[first + 1 :], strict=False)]
    return statistics.median(gaps[:last])


def main() -> None:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--long", action="store_true", help="also 20,000 tokens: many minutes")
    parser.add_argument("--one", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options.one[0], *map(int, options.one[1:]))))
        return
    _, gbps = print_limits()
    limit = gbps * 1e9 / WEIGHT_BYTES
    print(f"read limit, batch 1: {WEIGHT_BYTES / 1e6:.0f} MB a token, {limit:.1f} tokens/s")
    print_decoding(options.tokens, limit)
    print_prefill()
    if options.long:
        print_long()


def print_decoding(tokens: int, limit: float) -> None:
    """Tokens per second at batch 1 and 8."""
    print(f"\n{'decoding':32}{'tokens/s':>10}{'of limit':>10}")
    rates = {}
    contenders = [("greedy", 1), ("sampled", 1), ("greedy", 8), *((peer, batch) for batch in (1, 8) for peer in PEERS)]
    for name, batch in contenders:
        rates[name, batch] = batch / seconds_per_token(measure_apart(name, batch, PROMPT, tokens))
        title = f"{'transformers' if name in PEERS else 'yinggem'} {name}, batch {batch}"
        share = f"{rates[name, batch] / limit:10.0%}" if batch == 1 else ""
        print(f"{title:32}{rates[name, batch]:10.1f}{share}")
    for batch in (1, 8):
        ratio = rates["greedy", batch] / max(rates[peer, batch] for peer in PEERS)
        print(f"yinggem / best of transformers, batch {batch}: {ratio:.2f} x")
    print(f"yinggem batch 8 / batch 1: {rates['greedy', 8] / rates['greedy', 1]:.2f} x")


def print_prefill(length: int = 4096) -> None:
    """Time until the first token after a long prompt."""
    seconds = {}
    for name in ("greedy", *PEERS):
        times = measure_apart(name, 1, length, 2)
        seconds[name] = times[1] - times[0]
    peer = min(seconds[name] for name in PEERS)
    print(f"\nprefill of {length}: yinggem {seconds['greedy']:.2f} s, transformers {peer:.2f} s,", end=" ")
    print(f"ratio {peer / seconds['greedy']:.2f} x")


def print_long(tokens: int = 20_000) -> None:
    """Time per token early, once the window is full, and at the end."""
    times = measure_apart("sampled", 1, 1, tokens)
    print(f"\n{'position':>10}{'ms per token':>14}")
    for start in (64, CONFIG.attention_window or 0, 5_000, 10_000, tokens - 1000):
        print(f"{start:10}{1000 * seconds_per_token(times, start, 1000):14.2f}")


if __name__ == "__main__":
    main()
