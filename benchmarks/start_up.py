"""Seconds from a command to what it shows first, in fresh processes; importing torch, which some must, beside it.

    python benchmarks/start_up.py

"first token" is the time until generate.py has written the first piece of text after the prompt, read from a pipe, with
the quickstart's model (random weights) and its memory of the works, whose index is in the cache. "of torch" compares
with `python -c 'import torch'`, which takes its turn in every round.

    python benchmarks/start_up.py --base

measures a model of the base shape: the processor's seconds (user and system) of a whole generate.py that writes one
token, as a float32 file, rounded to int8 for the first time and again, and as the file of `yinggem quantize`.
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from machine import print_limits

from yinggem.inference.checkpoint import save_model
from yinggem.memory.ngram_memory import NgramMemory
from yinggem.model.config import ModelConfig
from yinggem.model.quantization import quantize
from yinggem.model.transformer import Transformer
from yinggem.text.assets import SHAKESPEARE, read_asset
from yinggem.text.tokenizer import BPETokenizer, GPT2Tokenizer

ROOT = Path(__file__).parent.parent
PROMPT = "ROMEO."
TORCH = "import torch"
LENGTH = ("--max-new-tokens",)


def commands(checkpoint: str) -> dict[str, list[str]]:
    """What is typed, without `python`."""
    generate = ["generate.py", "--checkpoint", checkpoint, "--prompt", PROMPT]
    return {
        TORCH: ["-c", "import torch; print('done')"],
        "generate.py --help": ["generate.py", "--help"],
        "generate.py, first token": generate,
        "generate.py --quantize int8, first token": [*generate, "--quantize", "int8"],
        "generate.py --device cpu:0 (torch), first token": [*generate, "--device", "cpu:0"],
        "generate.py, 20 tokens": [*generate, *LENGTH, "20"],
        "generate.py, 4,020 tokens": [*generate, *LENGTH, "4020"],
        "generate.py --memory 0, 20 tokens": [*generate, *LENGTH, "20", "--memory", "0"],
        "generate.py --memory 0, 4,020 tokens": [*generate, *LENGTH, "4020", "--memory", "0"],
        "train.py --help": ["train.py", "--help"],
        "train.py --cfg job": ["train.py", "--cfg", "job"],
    }


def seconds_until_shown(arguments: list[str]) -> float:
    """Until the output is complete, or goes on after the prompt where there is one."""
    enough = len(PROMPT) + 1 if PROMPT in arguments and LENGTH[0] not in arguments else 1 << 30
    start = time.perf_counter()
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    with subprocess.Popen([sys.executable, *arguments], cwd=ROOT, env=environment, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        got = 0
        while got < enough and (piece := os.read(process.stdout.fileno(), 1 << 16)):
            got += len(piece)
        seconds = time.perf_counter() - start
        process.kill()
    return seconds


BASE = {
    "float32": ["float.ckpt"],
    "float32 --quantize int8, first start": ["float.ckpt", "--quantize", "int8"],
    "float32 --quantize int8, again": ["float.ckpt", "--quantize", "int8"],
    "int8, of yinggem quantize": ["int8.ckpt"],
}


def processor_seconds(arguments: list[str], cache: str) -> float:
    """Of a process, until it has ended."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env=environment | {"YINGGEM_CACHE": cache}, stdout=subprocess.DEVNULL,
        check=True,
    )  # fmt: skip
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def measure_base(rounds: int) -> None:
    """Print the table of the base shape."""
    times: dict[str, list[float]] = {name: [] for name in BASE}
    with tempfile.TemporaryDirectory() as folder:
        model = Transformer(ModelConfig(50257, 768, 12, 12, intermediate_size=1024, attention_window=512))
        save_model(f"{folder}/float.ckpt", model, GPT2Tokenizer())
        save_model(f"{folder}/int8.ckpt", quantize(model), GPT2Tokenizer())
        time.sleep(3)  # files that were just written are read again
        for turn in range(rounds + 1):  # the first fills the caches of the disk
            for name, (file, *rest) in BASE.items():
                words = ["--checkpoint", f"{folder}/{file}", "--prompt", PROMPT, *LENGTH, "1", *rest]
                times[name].append(processor_seconds(["generate.py", *words], f"{folder}/cache{turn}"))
    print(f"{'base shape, one token':40}{'processor seconds':>18}")
    for name, kept in times.items():
        print(f"{name:40}{statistics.median(kept[1:]):18.2f}")


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--base", action="store_true")
    options = parser.parse_args()
    print_limits()
    if options.base:
        return measure_base(options.rounds)
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = BPETokenizer(vocab_size=2048)
        text = read_asset(SHAKESPEARE).decode()
        tokenizer.fit(lambda: iter([text]))
        memory = NgramMemory(tokenizer.encode_array(text[: len(text) * 9 // 10]), tokenizer.vocab_size)
        model = Transformer(ModelConfig(2048, 128, 3, 2, intermediate_size=344, attention_window=64, qk_norm=True))
        save_model(f"{folder}/best.ckpt", model, tokenizer, memory)
        times: dict[str, list[float]] = {name: [] for name in commands("")}
        for _ in range(options.rounds + 1):  # the first fills the caches of the disk
            for name, arguments in commands(f"{folder}/best.ckpt").items():
                times[name].append(seconds_until_shown(arguments))
    torch_alone = statistics.median(times[TORCH][1:])
    print(f"{'':50}{'seconds':>9}{'of torch':>10}")
    for name, kept in times.items():
        seconds = statistics.median(kept[1:])
        print(f"{name:50}{seconds:9.2f}{seconds / torch_alone:10.2f}")


if __name__ == "__main__":
    main()
