"""Runs side by side: a table sorted by bits per byte, results.csv and comparison.png."""

import contextlib
import csv
import io
import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from yinggem.common.errors import UserError
from yinggem.common.files import write_atomically
from yinggem.runs.metrics_file import STEP, read_metrics
from yinggem.runs.record import read_overrides
from yinggem.runs.result import OBJECTIVE, TEST, read_result

TEXT = "data.path"
LAST_COLUMNS = ("steps", "state", "folder")  # of every table
BESIDE = ("counting", "together")  # bits per byte of counting alone, and of network and counting together


@dataclass(frozen=True)
class Run:
    """One run as its folder tells it."""

    folder: Path
    overrides: dict[str, str]
    curve: list[tuple[float, float]]  # (optimizer steps, val/loss)
    bits_curve: list[tuple[float, float]] = field(default_factory=list)  # (optimizer steps, val/bits_per_byte)
    result: dict[str, Any] = field(default_factory=dict)

    @property
    def loss(self) -> float:
        """The final loss of a finished run, else the best so far; infinite before the first validation."""
        return _final_or_best(self.result.get("loss"), self.curve)

    @property
    def bits_per_byte(self) -> float:
        """As `loss`; infinite too where it was not measured."""
        return _final_or_best(self.result.get(OBJECTIVE), self.bits_curve)

    @property
    def rank(self) -> tuple[float, float]:
        """The order of runs: by bits per byte, the one figure that compares across tokenizers; runs without it last."""
        return self.bits_per_byte, self.loss

    @property
    def steps(self) -> int:
        """Optimizer steps of a finished run, else those before the last validation."""
        return int(self.result.get("steps", self.curve[-1][0] if self.curve else 0))

    @property
    def state(self) -> str:
        """failed (with the sentence in result["error"]), finished, pruned (by a search), or unfinished."""
        known = {"error": "failed", "loss": "finished", "pruned": "pruned"}
        return next((state for key, state in known.items() if key in self.result), "unfinished")

    @property
    def label(self) -> str:
        """What was different about it."""
        return " ".join(f"{name}={value}" for name, value in self.overrides.items()) or self.folder.name


def _final_or_best(final: float | None, curve: list[tuple[float, float]]) -> float:
    value = float(min((value for _, value in curve), default=math.inf) if final is None else final)
    return math.inf if math.isnan(value) else value


def read_run(folder: Path) -> Run:
    """Read one run folder."""
    overrides: dict[str, str] = {}
    with contextlib.suppress(UserError):  # killed at its very start: its row shows what there is
        overrides = dict(line.partition("=")[::2] for line in read_overrides(folder))
    rows = read_metrics(folder / "metrics.csv")

    def curve(name: str) -> list[tuple[float, float]]:
        return [(row[STEP], row[name]) for row in rows if math.isfinite(row.get(name, math.nan))]

    return Run(folder, overrides, curve("val/loss"), curve(f"val/{OBJECTIVE}"), read_result(folder))


def find_runs(folders: list[Path]) -> list[Run]:
    """Every run in or below the folders, best first.

    Raises:
        UserError: there is none, or a folder is missing.
    """
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"{folder} is no folder; name folders that train.py wrote.")
    below = ((Path(place), names) for folder in folders for place, _, names in os.walk(folder))
    places = {path.parent.resolve() for path, names in below if path.name == ".hydra" and "overrides.yaml" in names}
    if not places:
        raise UserError(f"No run was found in {', '.join(map(str, folders))}; name folders that train.py wrote.")
    return sorted(map(read_run, sorted(places)), key=lambda entry: entry.rank)


def distinguishing(runs: list[Run]) -> list[str]:
    """Names of the overrides that are not the same in every run."""
    names = dict.fromkeys(name for entry in runs for name in entry.overrides)
    return [name for name in names if len({entry.overrides.get(name) for entry in runs}) > 1]


def rows(runs: list[Run]) -> list[dict[str, Any]]:
    """One row per run: what differs, how good it is, where it is."""
    names = distinguishing(runs)
    beside = [name for name in BESIDE if any(f"{name}_{OBJECTIVE}" in entry.result for entry in runs)]
    test = [name for name in (f"{TEST}{OBJECTIVE}",) if any(name in entry.result for entry in runs)]
    return [
        {name: entry.overrides.get(name, "") for name in names}
        | {OBJECTIVE: entry.bits_per_byte if math.isfinite(entry.bits_per_byte) else ""}
        | {name: entry.result.get(f"{name}_{OBJECTIVE}", "") for name in beside}
        | {name: entry.result.get(name, "") for name in test}
        | {"val/loss": entry.loss, "perplexity": entry.result.get("perplexity", "")}
        | dict(zip(LAST_COLUMNS, (entry.steps, entry.state, str(entry.folder)), strict=True))
        for entry in runs
    ]


def compare(folders: list[Path], target: Path) -> list[Run]:
    """Print the table; write results.csv and comparison.png to `target`.

    Raises:
        UserError: no run was found, or `target` cannot be written.
    """
    runs = find_runs(folders)
    table = rows(runs)
    show(table, runs)  # first, so that there is something to see even if nothing can be written
    with contextlib.suppress(OSError):  # writing there, below, says what is wrong
        target.mkdir(parents=True, exist_ok=True)
    text = io.StringIO()
    writer = csv.DictWriter(text, table[0], lineterminator="\n")
    writer.writeheader()
    writer.writerows(table)
    write_atomically(target / "results.csv", text.getvalue().encode())
    draw(runs, target / "comparison.png")
    return runs


def show(table: list[dict[str, Any]], runs: list[Run]) -> None:
    """Print the table, and what went wrong in the runs that failed."""
    from rich.console import Console
    from rich.table import Table

    left_out = {"folder", *(name for name in distinguishing(runs) if follows_from_text(name, runs))}
    names = [name for name in table[0] if name not in left_out]
    drawn = Table(*map(short(names).__getitem__, names))
    drawn.add_column("folder", no_wrap=True)
    above = os.path.commonpath([entry.folder.parent for entry in runs])  # what all folders have in common
    for row in table:
        drawn.add_row(*(cell(row[name]) for name in names), os.path.relpath(row["folder"], above))
    console = Console(soft_wrap=True, markup=False, emoji=False, highlight=False)  # [default,ema] is not markup
    if not console.is_terminal:
        console.width = 250  # a file has room for every column
    console.print(drawn)
    if len({entry.overrides.get(TEXT) for entry in runs}) > 1:
        console.print("These runs have different texts, one of which may be harder than another.")
    for entry in runs:
        if entry.state == "failed":
            console.print(f"{entry.folder.name} failed: {entry.result['error']}")


def follows_from_text(name: str, runs: list[Run]) -> bool:
    """Whether a setting is the same in all runs on the same text: as a rule, each text chose its own."""
    texts = {entry.overrides.get(TEXT) for entry in runs}
    values = {(entry.overrides.get(TEXT), entry.overrides.get(name)) for entry in runs}
    return name != TEXT and 1 < len(texts) == len(values)


def short(names: list[str]) -> dict[str, str]:
    """Names of settings without their group, where that is enough to tell them apart."""
    last = [name.rpartition(".")[2] for name in names]
    return {name: end if last.count(end) == 1 else name for name, end in zip(names, last, strict=True)}


def cell(value: Any) -> str:
    """A figure or a setting with as many digits as one can compare."""
    if isinstance(value, float):
        return f"{value:.4f}" if abs(value) < 1e9 else f"{value:.4g}"
    try:
        return f"{float(value):.4g}" if len(value) > 6 else value
    except (TypeError, ValueError):
        return str(value)


def curtailed(label: str, length: int = 80) -> str:
    """A label that leaves room for the curves."""
    return label if len(label) <= length else f"{label[: length - 4]} ..."


def draw(runs: list[Run], path: Path) -> None:
    """Validation curves of all runs, the best one in front and labelled."""
    from matplotlib.figure import Figure

    names = short(distinguishing(runs))
    in_bits = all(entry.bits_curve for entry in runs if entry.curve)  # earlier figures may lack them
    figure = Figure(figsize=(8, 5), dpi=110, layout="constrained")
    axes = figure.add_subplot()
    for place, entry in reversed(list(enumerate(runs))):
        curve = entry.bits_curve if in_bits else entry.curve
        if not curve:
            continue
        own = (f"{known}={entry.overrides[name]}" for name, known in names.items() if name in entry.overrides)
        what = curtailed(" ".join(own) or entry.folder.name).replace("$", r"\$")  # ${a.name} is not a formula
        best = place == 0
        style: dict[str, Any] = {"linewidth": 2.4, "color": "#c8501e"} if best else {"linewidth": 1, "alpha": 0.7}
        axes.plot(*zip(*curve, strict=True), marker=".", label=f"{'best: ' if best else ''}{what}", **style)
        if best:
            step, loss = min(curve, key=lambda point: point[1])
            axes.annotate(f"{loss:.4f}", (step, loss), textcoords="offset points", xytext=(0, -12), ha="center")
    axes.set(xlabel="optimizer steps", ylabel="bits per byte" if in_bits else "val/loss (nats per token)")
    axes.margins(0.07, 0.1)  # room for the figure at the best point
    axes.grid(alpha=0.25)
    if axes.lines:
        handles, labels = axes.get_legend_handles_labels()
        axes.legend(handles[::-1][:12], labels[::-1][:12], fontsize=8)

    def save(file: Any) -> None:
        figure.savefig(file, format="png")

    write_atomically(path, save)
