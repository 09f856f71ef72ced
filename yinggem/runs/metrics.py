"""Reading what metrics.csv holds. Without Lightning: looking at finished runs should not take seconds to start."""

import csv
import io
from pathlib import Path


def read_metrics(path: str | Path) -> list[dict[str, float]]:
    """The rows of a metrics.csv, empty cells left out, and what is no row of numbers: a kill may cut the last short."""
    try:
        text = Path(path).read_text(encoding="utf-8", errors="replace")
        found = list(csv.DictReader(io.StringIO(text[: text.rfind("\n") + 1])))
    except (OSError, csv.Error):
        return []
    rows = []
    for row in found:
        try:
            rows.append({name: float(value) for name, value in row.items() if value})
        except (TypeError, ValueError):
            continue
    return [row for row in rows if "step" in row]


def depends_on_machine(name: str) -> bool:
    """Whether a figure tells of the machine and its load: then a run that is continued may log another value."""
    return name == "tokens_per_second" or name.startswith(("machine/", "DeviceStatsMonitor."))


def read_columns(path: Path) -> list[str]:
    """The names in the first line of a metrics.csv; [] where there is none."""
    try:
        with open(path, encoding="utf-8") as file:
            return [name for name in file.readline().strip().split(",") if name]
    except OSError:
        return []
