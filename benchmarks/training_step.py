"""One training step of the base shape (forward, backward, clipping, Adafactor): ours against transformers' Mistral.

    python benchmarks/training_step.py --batch 2 --length 1024
    python benchmarks/training_step.py --batch 8 --length 1024 --steps 1 --rounds 1
    python benchmarks/training_step.py --batch 8 --length 1024 --steps 30 --device cuda

Each contender runs in a process of its own, so that its peak memory is its own, with the same optimizer and the
GPT-2 vocabulary; they take turns, and a figure is the median of the rounds. FLOPs are counted by
`Transformer.flops_per_token`, for both. On a GPU all of them train in mixed bfloat16, and memory is what was allocated.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import torch
from machine import matmul_gflops, print_limits
from torch import Tensor, nn

from yinggem.model.config import ModelConfig
from yinggem.model.kernels.huge_pages import keep_freed_memory
from yinggem.model.transformer import Transformer
from yinggem.training.optimizers.adafactor import Adafactor

CONFIG = ModelConfig(vocab_size=50257)
CONTENDERS = ("yinggem", "yinggem compiled", "transformers sdpa", "transformers sdpa compiled")


def make_yinggem() -> tuple[nn.Module, Callable[[Tensor], Tensor]]:
    """Our model and its loss on a batch of ids (B, T + 1)."""
    keep_freed_memory()
    model = Transformer(CONFIG)
    return model, lambda ids: model.loss(ids[:, :-1], ids[:, 1:])


def make_transformers() -> tuple[nn.Module, Callable[[Tensor], Tensor]]:
    """Mistral of the same shape, bias-free as it is, and its own loss."""
    from transformers import MistralConfig, MistralForCausalLM

    model = MistralForCausalLM(
        MistralConfig(
            vocab_size=CONFIG.vocab_size, hidden_size=CONFIG.hidden_size, intermediate_size=CONFIG.intermediate_size,
            num_hidden_layers=CONFIG.num_hidden_layers, num_attention_heads=CONFIG.num_attention_heads,
            num_key_value_heads=CONFIG.key_value_heads, sliding_window=CONFIG.attention_window, use_cache=False,
            hidden_act="gelu_pytorch_tanh", attn_implementation="sdpa", max_position_embeddings=1 << 16,
        )
    )  # fmt: skip

    def loss(ids: Tensor) -> Tensor:
        logits = model(ids[:, :-1]).logits
        return nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())

    return model, loss


def measure(name: str, batch: int, length: int, steps: int, device: str) -> dict[str, float]:
    """Median seconds of a step and peak resident GB of this process, of the GPU's memory where there is one."""
    torch.manual_seed(0)
    gpu = device != "cpu"
    model, loss = make_yinggem() if name.startswith("yinggem") else make_transformers()
    model.to(device)
    if name == "yinggem compiled":  # as compile=true does
        model.compile_blocks()
    elif "compiled" in name:
        loss = torch.compile(loss)
    adafactor = Adafactor if name.startswith("yinggem") else torch.optim.Adafactor
    optimizer = adafactor(model.parameters(), lr=1e-3)
    times = []
    for _ in range(steps + 2):
        ids = torch.randint(CONFIG.vocab_size, (batch, length + 1), device=device)
        start = time.perf_counter()
        with torch.autocast(device, torch.bfloat16, enabled=gpu):
            value = loss(ids)
        value.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if gpu:
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    seconds = sorted(times[2:])[steps // 2]
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1e3
    return {"seconds": seconds, "gigabytes": (torch.cuda.max_memory_allocated() if gpu else resident) / 1e9}


def main() -> None:
    """Measure every contender and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--length", type=int, default=1024)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--only", choices=CONTENDERS, action="append", help="repeatable; default: all")
    parser.add_argument("--measure", choices=CONTENDERS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.measure, options.batch, options.length, options.steps, options.device)))
        return
    print_limits() if options.device == "cpu" else print(torch.cuda.get_device_name(), "\n")
    tokens = options.batch * options.length
    with torch.device("meta"):
        work = Transformer(CONFIG).flops_per_token(options.length) * tokens / 1e9
    contenders = options.only or CONTENDERS
    results: dict[str, list[dict[str, float]]] = {name: [] for name in contenders}
    for _ in range(options.rounds):  # they take turns: the machine's speed drifts
        for name in contenders:
            results[name].append(measure_apart(name, options.device))
    print(f"B={options.batch} T={options.length}: {work:.0f} GFLOP a step; ratios are to the first line\n")
    print(f"{'':28}{'seconds':>9}{'tokens/s':>10}{'ratio':>7}{'% of matmul':>13}{'peak GB':>9}{'ratio':>7}")
    first: dict[str, float] = {}
    for name, rounds in results.items():
        result = {key: statistics.median(one[key] for one in rounds) for key in rounds[0]}
        first = first or result
        seconds, gigabytes = result["seconds"], result["gigabytes"]
        print(
            f"{name:28}{seconds:9.2f}{tokens / seconds:10.0f}{first['seconds'] / seconds:7.2f}"
            f"{100 * work / seconds / result['gflops']:13.0f}{gigabytes:9.2f}{gigabytes / first['gigabytes']:7.2f}",
            flush=True,
        )


def measure_apart(name: str, device: str) -> dict[str, float]:
    """`measure` in a process of its own, and the matrix-product limit around it."""
    before = matmul_gflops(device=device)
    command = [sys.executable, *sys.argv, "--measure", name]
    result = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
    return result | {"gflops": (before + matmul_gflops(device=device)) / 2}


if __name__ == "__main__":
    main()
