"""Decoding at the base shape, float32: ours against transformers' generate, and against the memory-read limit.

    python benchmarks/decoding.py [--tokens 48] [--rounds 3] [--long] [--profile]

Same shape, window and kind of weights (random); greedy, so that both do the same work; each contender in a process of
its own, all of them in every round, and the median of the rounds. Every token reads each weight that multiplies once:
bytes of those weights / the read speed measured before and after each is its limit. --profile says where a token's time
goes: parts of a step, each measured alone, so what they do to each other's caches is what is missing from the sum.
"""

import argparse
import json
import statistics
import time
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from machine import measure_apart, median_seconds, print_limits, read_gbps
from torch import Tensor

from yinggem.inference.filters import History, choose
from yinggem.inference.generation import generate
from yinggem.inference.networks.torch_network import TorchNetwork
from yinggem.inference.sampling import Sampling
from yinggem.model.config import ModelConfig
from yinggem.model.decoding import DecodingStep
from yinggem.model.kernels.huge_pages import zeros_in_huge_pages
from yinggem.model.kv_cache import KVCache
from yinggem.model.layers import Linear
from yinggem.model.transformer import Transformer

CONFIG = ModelConfig(vocab_size=50257)
WEIGHT_BYTES = 4 * (CONFIG.parameters - CONFIG.vocab_size * CONFIG.hidden_size)  # the embedding is looked up
GREEDY, DEFAULT = Sampling(temperature=0.0, repetition_penalty=1.0), Sampling()
PEERS = ("dynamic", "static")  # caches of transformers
PROMPT = 64
SHARPEN = (
    6  # random weights make logits so flat that half the vocabulary is kept; times this, about ten to a hundred ids
)


def stamps(steps: Iterator[Sequence[int]]) -> list[float]:
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


def make_model() -> Transformer:
    """Random weights, where `load_model` puts those of a checkpoint."""
    model = Transformer(CONFIG).eval()
    for weights in model.parameters():
        weights.data = zeros_in_huge_pages(weights.shape, weights.dtype).copy_(weights.data)
    return model


def measure_yinggem(batch: int, prompt: int, tokens: int, sampling: Sampling) -> list[float]:
    """Time stamps of our generate."""
    torch.manual_seed(0)
    model, ids = make_model(), torch.randint(CONFIG.vocab_size, (batch, prompt)).numpy()
    model.head.weight.data.mul_(SHARPEN)
    network = TorchNetwork(model)
    list(generate(network, ids[:, :8], 4, sampling, range(batch)))
    return stamps(generate(network, ids, tokens, sampling, range(batch)))


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
    options: dict[str, Any] = {"do_sample": False, "disable_compile": True}
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


def seconds_per_token(times: list[float], first: int = 1, last: int | None = None) -> float:
    """Median time between tokens, the prompt's share left out."""
    gaps = [after - before for before, after in zip(times[first:], times[first + 1 :], strict=False)]
    return statistics.median(gaps[:last])


def main() -> None:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--profile", action="store_true", help="only say where the time of a step goes")
    parser.add_argument("--long", action="store_true", help="also 20,000 tokens: many minutes")
    parser.add_argument("--one", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options.one[0], *map(int, options.one[1:]))))
        return
    print_limits()
    if options.profile:
        print_profile(1)
        print_profile(8)
        return
    print_decoding(options.tokens, options.rounds)
    print_prefill()
    if options.long:
        print_long()


def print_decoding(tokens: int, rounds: int) -> None:
    """Tokens per second at batch 1 and 8."""
    contenders = [("greedy", 1), ("sampled", 1), ("greedy", 8), ("sampled", 8)]
    contenders += [(peer, batch) for batch in (1, 8) for peer in PEERS]
    measured: dict[tuple[str, int], list[tuple[float, float]]] = {contender: [] for contender in contenders}
    for _ in range(rounds):
        for name, batch in contenders:
            before = read_gbps()
            rate = batch / seconds_per_token(measure_apart(__file__, name, batch, PROMPT, tokens))
            limit = (before + read_gbps()) / 2 * 1e9 / WEIGHT_BYTES
            measured[name, batch].append((rate, rate / limit))
    print(f"\nweights that multiply: {WEIGHT_BYTES / 1e6:.0f} MB\n{'decoding':32}{'tokens/s':>10}{'of read limit':>15}")
    rates = {contender: statistics.median(rate for rate, _ in both) for contender, both in measured.items()}
    for (name, batch), both in measured.items():
        title = f"{'transformers' if name in PEERS else 'yinggem'} {name}, batch {batch}"
        share = f"{statistics.median(share for _, share in both):15.0%}" if batch == 1 else ""
        print(f"{title:32}{rates[name, batch]:10.1f}{share}")
    for batch in (1, 8):
        ratio = rates["greedy", batch] / max(rates[peer, batch] for peer in PEERS)
        print(f"yinggem / best of transformers, batch {batch}: {ratio:.2f} x")
    print(f"yinggem batch 8 / batch 1: {rates['greedy', 8] / rates['greedy', 1]:.2f} x")


def print_profile(batch: int) -> None:
    """Milliseconds of one decoding step at position `PROMPT`, and of its parts alone."""
    torch.manual_seed(0)
    model, tokens = make_model(), torch.randint(CONFIG.vocab_size, (batch, 1))
    cache, state = KVCache(CONFIG, batch), torch.randn(batch, 1, CONFIG.hidden_size)
    matrices = [module for module in model.blocks.modules() if isinstance(module, Linear)]
    inputs = [torch.randn(batch, 1, layer.in_features) for layer in matrices]
    outputs = [torch.randn(batch, 1, layer.out_features) for layer in matrices]
    logits = (SHARPEN * torch.randn(batch, CONFIG.vocab_size) / 2).numpy()
    history = History(torch.randint(CONFIG.vocab_size, (PROMPT,)).tolist(), CONFIG.vocab_size, DEFAULT)

    with torch.inference_mode():
        prepared = DecodingStep(model, cache).model
        names = [name for name, module in model.blocks.named_modules() if isinstance(module, Linear)]
        layers = [prepared.blocks.get_submodule(name) for name in names]

        def step() -> Tensor:
            cache.length = PROMPT
            return prepared.hidden(tokens, cache)

        parts = {
            "a whole step": lambda: prepared.head(step()),
            "  48 products of the layers": lambda: [layer(x) for layer, x in zip(layers, inputs, strict=True)],
            "  product of the head": lambda: prepared.head(state),
            "  all else (norms, rotation, attention, ...)": step,
            "choosing": lambda: [choose(row, DEFAULT, history, 0.5) for row in logits],
        }
        print(f"\nbatch {batch}, reading the weights takes {WEIGHT_BYTES / read_gbps() / 1e6:.2f} ms")
        for name, part in parts.items():
            if part is step:
                for layer, out in zip(layers, outputs, strict=True):
                    layer.product = lambda _x, out=out: out
            print(f"  {name:46}{1000 * median_seconds(part, 40):8.2f} ms")


def print_prefill(length: int = 4096) -> None:
    """Time until the first token after a long prompt."""
    seconds = {}
    for name in ("greedy", *PEERS):
        times = measure_apart(__file__, name, 1, length, 2)
        seconds[name] = times[1] - times[0]
    peer = min(seconds[name] for name in PEERS)
    print(f"\nprefill of {length}: yinggem {seconds['greedy']:.2f} s, transformers {peer:.2f} s,", end=" ")
    print(f"ratio {peer / seconds['greedy']:.2f} x")


def print_long(tokens: int = 20_000) -> None:
    """Time per token early, once the window is full, and at the end."""
    times = measure_apart(__file__, "sampled", 1, 1, tokens)
    print(f"\n{'position':>10}{'ms per token':>14}")
    for start in (64, CONFIG.attention_window or 0, 5_000, 10_000, tokens - 1000):
        print(f"{start:10}{1000 * seconds_per_token(times, start, 1000):14.2f}")


if __name__ == "__main__":
    main()
