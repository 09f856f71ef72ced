"""Where a model began to learn its training text by heart: validation rises from there on, while training falls."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from yinggem.runs.metrics_file import STEP

TRAIN, VAL = "train/loss", "val/loss"
LEAST = 0.005  # of the validation loss: what it has to rise by


@dataclass(frozen=True)
class ByHeart:
    """The losses, in nats per token, at the best validation and at the end."""

    step: int
    val: tuple[float, float]
    train: tuple[float, float]


def learnt_by_heart(rows: Sequence[Mapping[str, float]]) -> ByHeart | None:
    """Where it began; None where it did not.

    Args:
        rows: of metrics.csv. The training losses of single steps are noisy: those before a validation are averaged.
    """
    vals = [(row[STEP], row[VAL]) for row in rows if VAL in row]
    if len(vals) < 2:
        return None
    best = min(range(len(vals)), key=lambda number: vals[number][1])
    trains = [_mean_before(rows, vals, number) for number in (best, len(vals) - 1)]
    if best == len(vals) - 1 or vals[-1][1] < vals[best][1] * (1 + LEAST) or None in trains:
        return None
    before, after = (float(mean or 0) for mean in trains)
    if after >= before:
        return None
    return ByHeart(int(vals[best][0]), (vals[best][1], vals[-1][1]), (before, after))


def _mean_before(rows: Sequence[Mapping[str, float]], vals: Sequence[tuple[float, float]], number: int) -> float | None:
    """Mean training loss between a validation and the one before it; None where none was logged."""
    start, end = vals[number - 1][0] if number else 0, vals[number][0]
    losses = [row[TRAIN] for row in rows if TRAIN in row and start < row[STEP] <= end]
    return sum(losses) / len(losses) if losses else None
