"""Time to quality on tiny Shakespeare by characters: experiment=speedrun_char against nanoGPT's CPU recipe.

    python benchmarks/speedrun.py --data ../shared/data/tinyshakespeare.txt --seeds 0 1 2

The peer is nanoGPT (https://github.com/karpathy/nanoGPT, MIT; not on PyPI), its model and training loop written again
here with the settings of its README for a CPU: 4 layers, 4 heads, 128 wide, block 64, batch 12, 2000 steps. Each
contender runs in a process of its own. Losses are nats per character of one full pass over the last tenth of the text:
every character after the first is predicted once, in windows of the contender's own length. Seconds are those of
training, from the first step to the end of the last; start-up, evaluations and what they draw stand beside them.
"of peer" compares them with the peer's recipe as it is run, its evaluations included; "to 1.88" is when a validation
first was there.
"""

import argparse
import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from machine import print_limits
from torch import Tensor, nn

ROOT = Path(__file__).parent.parent
LAYERS, HEADS, WIDTH, BLOCK, BATCH, STEPS = 4, 4, 128, 64, 12, 2000
Figures = dict[str, float]
TARGET = 1.88  # what nanoGPT's README promises of that recipe
ADAFACTOR = ["optimizer=adafactor", "optimizer.lr=0.05"]
OURS = {  # name: settings; the short runs are aimed at TARGET, the long ones at the peer's time
    "Muon": [],
    "Muon, short": ["trainer.max_steps=310", "trainer.val_check_interval=310"],
    "Adafactor": [*ADAFACTOR, "trainer.max_steps=1500", "trainer.val_check_interval=500"],
    "Adafactor, short": [*ADAFACTOR, "trainer.max_steps=480", "trainer.val_check_interval=480"],
}


class LayerNorm(nn.Module):
    """Without a bias."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., D)."""
        return F.layer_norm(x, self.weight.shape, self.weight, None, 1e-5)


class PeerBlock(nn.Module):
    """Attention, then an MLP four times as wide."""

    def __init__(self) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = LayerNorm(), LayerNorm()
        self.attn, self.attn_proj = nn.Linear(WIDTH, 3 * WIDTH, bias=False), nn.Linear(WIDTH, WIDTH, bias=False)
        self.fc, self.fc_proj = nn.Linear(WIDTH, 4 * WIDTH, bias=False), nn.Linear(4 * WIDTH, WIDTH, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, D)."""
        heads = (part.unflatten(-1, (HEADS, -1)).transpose(1, 2) for part in self.attn(self.ln_1(x)).split(WIDTH, -1))
        mixed = F.scaled_dot_product_attention(*heads, is_causal=True).transpose(1, 2).flatten(2)
        x = x + self.attn_proj(mixed)
        return x + self.fc_proj(F.gelu(self.fc(self.ln_2(x))))


class Peer(nn.Module):
    """nanoGPT's GPT: learned positions, the head tied to the embedding."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.wte, self.wpe = nn.Embedding(vocabulary, WIDTH), nn.Embedding(BLOCK, WIDTH)
        self.blocks, self.ln_f = nn.ModuleList(PeerBlock() for _ in range(LAYERS)), LayerNorm()
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                shrink = math.sqrt(2 * LAYERS) if name.endswith("_proj.weight") else 1.0
                nn.init.normal_(parameter, std=0.02 / shrink)

    def forward(self, ids: Tensor, targets: Tensor, reduction: str = "mean") -> Tensor:
        """Cross-entropy of (B, T) ids."""
        x = self.wte(ids) + self.wpe(torch.arange(ids.size(1)))
        for block in self.blocks:
            x = block(x)
        logits = F.linear(self.ln_f(x), self.wte.weight)
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction=reduction)


def random_batch(ids: np.ndarray) -> tuple[Tensor, Tensor]:
    """nanoGPT's get_batch."""
    starts = torch.randint(len(ids) - BLOCK, (BATCH,))
    return tuple(  # type: ignore[return-value]
        torch.stack([torch.from_numpy(ids[i + shift : i + shift + BLOCK].astype(np.int64)) for i in starts])
        for shift in (0, 1)
    )


@torch.no_grad()
def full_pass(model: Peer, ids: np.ndarray) -> float:
    """Mean loss with every id after the first predicted once, in windows of BLOCK."""
    data = torch.from_numpy(ids.astype(np.int64))
    whole = (len(data) - 1) // BLOCK * BLOCK
    inputs, targets = data[:whole].view(-1, BLOCK), data[1 : whole + 1].view(-1, BLOCK)
    nats = sum(model(x, y, "sum").item() for x, y in zip(inputs.split(64), targets.split(64), strict=True))
    if whole < len(data) - 1:
        nats += model(data[None, whole:-1], data[None, whole + 1 :], "sum").item()
    return nats / (len(data) - 1)


def rate(step: int, steps: int) -> float:
    """nanoGPT's get_lr: 1e-3 after 100 steps of warm-up, a cosine down to 1e-4."""
    if step < 100:
        return 1e-3 * (step + 1) / 101
    return 1e-4 + 0.5 * (1 + math.cos(math.pi * (step - 100) / max(1, steps - 100))) * 9e-4


@torch.no_grad()
def estimate_loss(model: Peer, splits: tuple[np.ndarray, np.ndarray]) -> None:
    """nanoGPT's, with its README's 20 batches of each split: what its recipe spends on evaluations."""
    for ids in splits:
        for _ in range(20):
            model(*random_batch(ids)).item()


def measure_peer(path: Path, seed: int, steps: int) -> Figures:
    """Train nanoGPT."""
    text = path.read_text()
    kinds = {character: index for index, character in enumerate(sorted(set(text)))}
    ids = np.array([kinds[character] for character in text], dtype=np.uint16)
    train, val = ids[: int(0.9 * len(ids))], ids[int(0.9 * len(ids)) :]
    torch.manual_seed(seed)
    model = Peer(len(kinds))
    groups: list[dict[str, Any]] = [
        {"params": [p for p in model.parameters() if p.ndim == 2], "weight_decay": 0.1},
        {"params": [p for p in model.parameters() if p.ndim < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.99))
    evaluating, begin = 0.0, time.perf_counter()
    for step in range(steps):
        if step % 250 == 0:
            start = time.perf_counter()
            estimate_loss(model, (train, val))
            evaluating += time.perf_counter() - start
        for group in optimizer.param_groups:
            group["lr"] = rate(step, steps)
        loss = model(*random_batch(train))
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        loss.item()
    seconds = time.perf_counter() - begin
    return {"seconds": seconds - evaluating, "with evaluations": seconds, "steps": steps, "loss": full_pass(model, val)}


def measure_ours(path: Path, seed: int, settings: list[str]) -> Figures:
    """Train experiment=speedrun_char as train.py does, with a clock beside its callbacks."""
    sys.path.insert(0, str(ROOT))
    from hydra import compose, initialize_config_dir
    from hydra.core.hydra_config import HydraConfig
    from lightning.pytorch import Callback

    from yinggem.commands import train
    from yinggem.commands.run.report import silence_libraries
    from yinggem.model.kernels.huge_pages import keep_freed_memory

    class Clock(Callback):
        """Seconds of training: from the first step to the end of the last, validations left out."""

        seconds = started = 0.0
        reached = math.inf  # seconds until a validation was at the target

        def on_validation_start(self, *_: Any) -> None:
            self.seconds, self.started = self.seconds + time.perf_counter() - self.started, 0.0

        def on_validation_end(self, trainer: Any, *_: Any) -> None:
            if float(trainer.callback_metrics["val/loss"]) <= TARGET:
                self.reached = min(self.reached, self.seconds)

        def on_train_batch_start(self, *_: Any) -> None:
            self.started = self.started or time.perf_counter()

    silence_libraries()
    keep_freed_memory()
    with tempfile.TemporaryDirectory() as folder, initialize_config_dir(str(train.CONF), version_base="1.3"):
        told = [f"hydra.runtime.output_dir={folder}", "experiment=speedrun_char", f"data.path={path.resolve()}"]
        cfg = compose("train", [*told, f"seed={seed}", *settings], return_hydra_config=True)
        HydraConfig.instance().set_config(cfg)
        trainer, module, data = train.build(cfg)
        clock = Clock()
        trainer.callbacks.insert(0, clock)  # before the callbacks that draw samples and curves
        trainer.fit(module, data)
    loss = float(trainer.callback_metrics["val/loss"])
    return {"seconds": clock.seconds, "loss": loss, "steps": trainer.global_step, "reached": clock.reached}


def in_a_process(options: argparse.Namespace, seed: int, contender: str, settings: list[str]) -> Figures:
    """One contender, in a process of its own; start-up is what the process lived beside its training."""
    begin = time.perf_counter()
    command = [sys.executable, __file__, "--data", str(options.data), "--peer-steps", str(options.peer_steps)]
    command += ["--seeds", str(seed), "--measure", contender, "--settings", *settings]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    figures: Figures = json.loads(done.stdout.splitlines()[-1])
    return figures | {"all": time.perf_counter() - begin}


def print_row(name: str, runs: list[Figures], peer: list[Figures]) -> None:
    """Medians over the seeds, the range of the losses, and seconds as a part of the peer's with its evaluations."""
    seconds, steps, total = (statistics.median(run[key] for run in runs) for key in ("seconds", "steps", "all"))
    losses = [run["loss"] for run in runs]
    part = seconds / statistics.median(run["with evaluations"] for run in peer)
    reached = statistics.median(run.get("reached", math.inf) for run in runs)
    print(
        f"{name:22}{steps:7.0f}{1e3 * seconds / steps:9.1f}{seconds:9.1f}{part:9.2f}{statistics.median(losses):9.4f}"
        f"{min(losses):9.4f}{max(losses):9.4f}{reached:9.1f}{total - seconds:9.1f}",
        flush=True,
    )


def main() -> None:
    """Measure every contender and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data/tinyshakespeare.txt"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--peer-steps", type=int, default=STEPS)
    parser.add_argument("--only", choices=OURS, action="append", help="repeatable; default: all")
    parser.add_argument("--settings", nargs="*", default=[], help="further settings of ours, as for train.py")
    parser.add_argument("--measure", choices=["peer", "ours"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure == "peer":
        print(json.dumps(measure_peer(options.data, options.seeds[0], options.peer_steps)))
        return
    if options.measure == "ours":
        print(json.dumps(measure_ours(options.data, options.seeds[0], options.settings)))
        return
    print_limits()
    columns = ("seconds", "of peer", "loss", "lowest", "highest", f"to {TARGET}", "beside")
    print(f"{'':22}{'steps':>7}{'ms/step':>9}" + "".join(f"{column:>9}" for column in columns))
    peer = [in_a_process(options, seed, "peer", []) for seed in options.seeds]
    print_row("nanoGPT", peer, peer)
    print(f"{'  with evaluations':38}{statistics.median(run['with evaluations'] for run in peer):9.1f}")
    for name in options.only or OURS:
        settings = [*OURS[name], *options.settings]
        print_row(name, [in_a_process(options, seed, "ours", settings) for seed in options.seeds], peer)


if __name__ == "__main__":
    main()
