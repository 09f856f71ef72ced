"""metrics.csv: the curves of a run as a table."""

import csv
import io
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from yinggem.common.files import append_text, write_atomically
from yinggem.runs.metrics_file import STEP, read_columns, read_metrics


class MetricsCSV(Logger):
    """One row per step in `save_dir`/metrics.csv; a cell is empty where a figure was not logged at that step.

    Lightning's CSVLogger deletes the file of a run that is continued, so this one stands in its place.
    """

    def __init__(self, save_dir: str) -> None:
        super().__init__()
        self.path = Path(save_dir) / "metrics.csv"
        self._columns = [STEP]
        self._rows: list[dict[str, float]] = []  # not yet in the file; only the last one may still grow
        self._continues = False

    @property
    def name(self) -> str:
        """Part of Lightning's interface."""
        return "metrics"

    @property
    def version(self) -> str:
        """Part of Lightning's interface."""
        return ""

    def resume_at(self, step: int, validated: bool = True) -> None:
        """Keep the rows up to `step`, after which the run goes on; later ones will come again.

        Args:
            validated: whether a validation was due at `step`; otherwise one there was the final one, and is forgotten.
        """
        kept = [row for row in read_metrics(self.path) if row[STEP] <= step]
        if not validated:
            kept = [row for row in kept if row[STEP] < step or "val/loss" not in row]
        named = {name for row in kept for name in row}
        self._columns = [STEP, *(name for name in read_columns(self.path) if name in named - {STEP})]
        self._continues = True
        self._write(kept)

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Add figures to the row of a step."""
        row = {name: float(value) for name, value in metrics.items()}
        step = 0 if step is None else step
        if self._rows and self._rows[-1][STEP] == step:
            self._rows[-1] |= row
        else:
            self._rows.append({STEP: step} | row)
        if len(self._rows) > 100:
            self._append(self._rows[:-1])
            self._rows = self._rows[-1:]

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """The run folder holds them already, in .hydra/."""

    @rank_zero_only
    def save(self) -> None:
        """Write all rows."""
        self._append(self._rows)
        self._rows = []

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Write all rows."""
        self.save()

    def _append(self, rows: list[dict[str, float]]) -> None:
        if not rows:
            return
        names = list(dict.fromkeys([*self._columns, *(name for row in rows for name in row)]))
        if names != self._columns or not self.path.exists():
            written = read_metrics(self.path) if self._continues else []  # of a run killed before its first checkpoint
            self._columns, self._continues = names, True
            self._write([*written, *rows])
            return
        append_text(self.path, self._format(rows))

    def _write(self, rows: list[dict[str, float]]) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(self.path, (",".join(self._columns) + "\n" + self._format(rows)).encode())

    def _format(self, rows: list[dict[str, float]]) -> str:
        text = io.StringIO()
        writer = csv.DictWriter(text, self._columns, restval="", lineterminator="\n")
        writer.writerows({name: _number(value) for name, value in row.items()} for row in rows)
        return text.getvalue()


def _number(value: float) -> str:
    return str(int(value)) if math.isfinite(value) and value == int(value) and abs(value) < 1e15 else repr(value)
