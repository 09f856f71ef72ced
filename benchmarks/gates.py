"""Fits the weights that a memory begins with: yinggem/memory/gates.json, of small texts that its network did not see.

    python benchmarks/gates.py RUN [RUN ...] [--leave-out] [--output yinggem/memory/gates.json]

A RUN is a folder of runs with a memory, of which the newest counts. Its predictions of its validation split are pooled
with those of all others whose memory has the same features: texts in tokens, and texts in letters. --leave-out says
what a gate of the other texts alone reaches on each, in bits per byte, beside the linear gate and one that was fitted
to the text itself.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch

from yinggem.inference.checkpoint import load_model
from yinggem.inference.evaluation import evaluation_rows
from yinggem.inference.files.stored_model import read_model
from yinggem.memory.mixture import GATES, Mixture, linear
from yinggem.runs.layout import find_checkpoint
from yinggem.text.text_record import TextRecord, open_recorded_text

WINDOW, DIGITS = 1024, 3
Predictions = tuple[np.ndarray, np.ndarray, float]  # features (N, F), probabilities (N, S), bytes


def predictions(run: str) -> Predictions:
    """Of the validation split of a run."""
    path = find_checkpoint(run)
    stored = read_model(path)
    model, tokenizer = load_model(path, stored=stored)
    memory = stored.memory
    assert memory is not None, f"{run} has no memory"
    split, _ = open_recorded_text(TextRecord.from_dict(stored.entry["data"]), tokenizer)
    found, size = [], 0.0
    for rows, _ in evaluation_rows(split.val, WINDOW, 16):
        block = torch.from_numpy(rows)
        with torch.inference_mode():
            nats = model.loss(block[:, :-1], block[:, 1:], reduction="none").double().numpy()
        sources, features = memory.sources(rows)
        both = np.concatenate([np.exp(-nats)[..., None], sources], -1)
        found.append((features.reshape(-1, features.shape[-1]), both.reshape(-1, both.shape[-1])))
        size += float(split.token_bytes[rows[:, 1:]].sum())
    features, both = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return features, both, size


def pooled(several: list[Predictions]) -> Mixture:
    """A gate fitted to all of them."""
    features, both = (np.concatenate([one[k] for one in several]) for k in (0, 1))
    return linear(features.shape[1], both.shape[1]).fitted(features, both)


def bits(mixture: Mixture, some: Predictions) -> float:
    """Bits per byte."""
    return float(-np.log2((mixture.weights(some[0]) * some[1]).sum(-1)).sum() / some[2])


def crossed(some: Predictions) -> float:
    """Bits per byte of each half by a gate fitted to the other."""
    halves = np.array_split(np.arange(len(some[0])), 2)
    total = 0.0
    for mine, other in (halves, halves[::-1]):
        gate = linear(some[0].shape[1], some[1].shape[1]).fitted(some[0][other], some[1][other])
        total += bits(gate, (some[0][mine], some[1][mine], some[2]))
    return total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+")
    parser.add_argument("--leave-out", action="store_true")
    parser.add_argument("--output", type=Path, default=Path(__file__).parents[1] / "yinggem" / "memory" / GATES)
    options = parser.parse_args()
    kinds: dict[tuple[int, int], dict[str, Predictions]] = {}
    for run in options.runs:
        some = predictions(run)
        kinds.setdefault((some[0].shape[1], some[1].shape[1]), {})[run] = some
    for shape, texts in kinds.items():
        for run, some in texts.items() if options.leave_out else ():
            others = pooled([one for name, one in texts.items() if name != run])
            figures = bits(linear(*shape), some), bits(others, some), crossed(some)
            shown = (f"{name} {value:.3f}" for name, value in zip(("linear", "gate", "own"), figures, strict=True))
            print(run, f"network {-np.log2(some[1][:, 0]).sum() / some[2]:.3f}", *shown)
    if not options.leave_out:
        gates = [pooled([*texts.values()]).parameters for texts in kinds.values()]
        rounded = [{name: np.round(array, DIGITS).tolist() for name, array in gate.items()} for gate in gates]
        options.output.write_text(json.dumps(rounded, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
