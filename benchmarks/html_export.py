"""An exported page: how large it is, how soon it is open, how fast it writes, in node and in Chromium.

    python benchmarks/html_export.py [--shapes quickstart base] [--rounds 3] [--chromium PROGRAM]

Random weights, a prompt of a few tokens, the default filters. The native engine on one thread writes the same.
"plain" is the text alone, "told" with the eight likeliest tokens beside each, as the page wants them. Seconds of the
processor are given too: on a busy machine they say more than those of the clock. Needs node; Chromium, if named, is
driven by playwright.
"""

import argparse
import json
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from engine import SHAPES, make_model

import yinggem
from yinggem.export.html import file
from yinggem.export.source import read_source
from yinggem.inference.checkpoint import save_model
from yinggem.text.assets import read_asset
from yinggem.text.tokenizer import BPETokenizer, GPT2Tokenizer, Tokenizer

TOKENS = {"quickstart": 2000, "base": 40}
LIKELIEST = {"plain": None, "told": 8}
IN_NODE = Path(__file__).parents[1] / "tests" / "page_in_node.js"
IN_PAGE = """async (request) => {
    const began = performance.now();
    await modules["/backend.js"].stream(request, new AbortController().signal, () => {});
    return (performance.now() - began) / 1000;
}"""


def request(shape: str, how: str, seed: int) -> dict[str, Any]:
    """A text that is asked for."""
    return {"prompt": "ROMEO:", "seed": seed, "max_tokens": TOKENS[shape], "logprobs": LIKELIEST[how]}


def tokenizer_of(shape: str) -> Tokenizer:
    """With as many tokens as the model has."""
    if shape == "base":
        return GPT2Tokenizer()
    tokenizer, text = BPETokenizer(SHAPES[shape].vocab_size), read_asset("shakespeare.txt.xz").decode()
    tokenizer.fit(lambda: [text[:1_000_000]])
    return tokenizer


def in_node(page: Path, shape: str, how: str, seed: int) -> tuple[float, float, float]:
    """Seconds to open, to write, and of the processor while it wrote."""
    asked = json.dumps([request(shape, how, seed)])
    command = ["node", str(IN_NODE), str(page)]
    told = json.loads(subprocess.run(command, input=asked, capture_output=True, text=True, check=True).stdout)
    return told["opening"], told["seconds"], told["cpu"]


def in_chromium(program: str, page: Path, shape: str, rounds: int) -> Iterator[tuple[str, float]]:
    """What, and how many seconds it took."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        shown = browser.new_page()
        shown.set_default_timeout(600_000)
        began = time.perf_counter()
        shown.goto(page.as_uri())
        shown.wait_for_selector(".slider")
        yield "open", time.perf_counter() - began
        for how in LIKELIEST:
            yield from ((how, shown.evaluate(IN_PAGE, request(shape, how, seed))) for seed in range(rounds + 1))
        browser.close()


def report(shape: str, rounds: int, chromium: str | None, folder: Path) -> None:
    """Print the lines of a shape."""
    tokens, checkpoint, page = TOKENS[shape], folder / f"{shape}.ckpt", folder / f"{shape}.html"
    save_model(checkpoint, make_model(shape), tokenizer_of(shape), context_length=1024)
    began = time.perf_counter()
    file.export(read_source(checkpoint)[0], page)
    size, parameters = page.stat().st_size, SHAPES[shape].parameters
    print(f"{shape}: {size / 1e6:.2f} MB, {size / parameters:.3f} bytes a parameter, "
          f"written in {time.perf_counter() - began:.1f} s")  # fmt: skip
    model = yinggem.load(checkpoint, device="cpu", quantization="int8")
    native = []
    for seed in range(rounds):
        began = time.perf_counter()
        model.generate("ROMEO:", max_new_tokens=tokens, seed=seed)
        native.append(time.perf_counter() - began)
    print(f"  native, 8 bits: {tokens / statistics.median(native):.0f} tokens/s ({model.network.about})")
    for how in LIKELIEST:
        opening, seconds, cpu = zip(*(in_node(page, shape, how, seed) for seed in range(rounds)), strict=True)
        print(f"  node, {how}: {tokens / statistics.median(seconds):.0f} tokens/s, "
              f"{tokens / statistics.median(cpu):.0f} a second of the processor, "
              f"open after {statistics.median(opening):.2f} s")  # fmt: skip
    found: dict[str, list[float]] = {}
    for what, took in in_chromium(chromium, page, shape, rounds) if chromium else ():
        found.setdefault(what, []).append(took)
    for what, times in found.items():
        rate = f"{tokens / statistics.median(times[1:]):.0f} tokens/s" if times[1:] else f"after {times[0]:.2f} s"
        print(f"  Chromium, {what}: {rate}")


def main() -> None:
    """One shape after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", choices=TOKENS, default=["quickstart"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--chromium", metavar="PROGRAM")
    options = parser.parse_args()
    for shape in options.shapes:
        with tempfile.TemporaryDirectory() as folder:
            report(shape, options.rounds, options.chromium, Path(folder))


if __name__ == "__main__":
    main()
