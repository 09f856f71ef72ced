"""yinggem serve: how soon it answers, and the tokens/s of one client and of several together, at the base shape.

    python benchmarks/serving.py [--clients 8] [--tokens 32] [--rounds 3] [--layers 12]

With --rounds 0 only how soon.
One and several take turns, and the median of the rounds counts. The client runs beside the server on the same cores.
"""

import argparse
import contextlib
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from yinggem.inference.checkpoint import save_model
from yinggem.model.config import ModelConfig
from yinggem.model.transformer import Transformer
from yinggem.text.tokenizer import GPT2Tokenizer

SHARPEN = (
    6  # random weights make logits so flat that half the vocabulary is kept; times this, about ten to a hundred ids
)


def ask(url: str, seed: int, tokens: int) -> int:
    """Complete a prompt; how many tokens were drawn."""
    body = {"prompt": "ROMEO:\nBut soft, what light", "max_tokens": tokens, "seed": seed}
    request = urllib.request.Request(
        f"{url}/v1/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request) as response:
        found: int = json.load(response)["usage"]["completion_tokens"]
    return found


def tokens_per_second(url: str, clients: int, tokens: int) -> float:
    """Of so many clients together."""
    began = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        drawn = sum(pool.map(lambda seed: ask(url, seed, tokens), range(clients)))
    return drawn / (time.perf_counter() - began)


def main() -> None:
    """Write a checkpoint, serve it, ask."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("clients", 8), ("tokens", 32), ("rounds", 3), ("layers", 12)):
        parser.add_argument(f"--{name}", type=int, default=value)
    options = parser.parse_args()
    config = ModelConfig(50257, 768, options.layers, 12, None, 1024, attention_window=512, bias=True)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "base.ckpt")
        model = Transformer(config)
        model.head.weight.data.mul_(SHARPEN)
        save_model(path, model, GPT2Tokenizer())
        for place, rounds in (("starter", 0), (str(path), options.rounds)):
            words = [sys.executable, "-m", "yinggem", "serve", "--checkpoint", place, "--port", "0"]
            began = time.perf_counter()
            with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as server:
                assert server.stdout
                found = re.search(r"http://\S+", server.stdout.readline())
                assert found
                with contextlib.suppress(urllib.error.HTTPError):  # 503: the model is being opened
                    urllib.request.urlopen(f"{found[0]}/health").close()
                answered = time.perf_counter() - began
                ask(found[0], 0, 1)
                ready = time.perf_counter() - began
                print(
                    f"{Path(place).name}: the first answer after {answered:.2f} s, the first token after {ready:.2f} s"
                )
                speeds = [
                    [tokens_per_second(found[0], n, options.tokens) for n in (1, options.clients)]
                    for _ in range(rounds)
                ]
                if speeds:
                    one, all_ = (statistics.median(column) for column in zip(*speeds, strict=True))
                    print(f"1 client {one:.1f} tokens/s, {options.clients} together {all_:.1f}: {all_ / one:.2f} x")
                server.terminate()


if __name__ == "__main__":
    main()
