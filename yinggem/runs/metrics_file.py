"""Reading what metrics.csv holds. Without Lightning: looking at finished runs should not take seconds to start.

A row holds the figures of one optimizer step. Its first column, `step`, counts the steps taken up to then, this one
included: the number that checkpoints, samples.txt and every message use. (Version 0.1.0 counted from 0.)
"""

import csv
import io
from pathlib import Path

STEP = "step"  # how many have been taken with it


def read_metrics(path: str | Path) -> list[dict[str, float]]:
    """The rows of a metrics.csv, without empty cells and unreadable lines: a kill may cut the last."""
    try:
        text = Path(path).read_text(encoding="utf-8", errors="replace")
        found = list(csv.DictReader(io.StringIO(text[: text.rfind("\n") + 1])))
    except (OSError, csv.Error):
        return []
    rows = []
    for row in found:
        try:
            figures = {name: float(value) for name, value in row.items() if value}
        except (TypeError, ValueError):
            continue
        if STEP in figures:
            rows.append(figures)
    return rows


def depends_on_machine(name: str) -> bool:
    """Whether a figure depends on the machine and its load, so that a continued run may log another value."""
    return name == "tokens_per_second" or name.startswith(("machine/", "DeviceStatsMonitor."))


def read_columns(path: Path) -> list[str]:
    """The names in the first line of a metrics.csv, `step` first; that alone where there is no file."""
    try:
        with open(path, encoding="utf-8") as file:
            names = [name for name in file.readline().strip().split(",") if name]
    except OSError:
        names = []
    return list(dict.fromkeys([STEP, *names]))
