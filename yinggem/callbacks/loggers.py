"""Loggers that continue where a resumed run continues: what was logged after that point is logged again."""

import contextlib
import csv
import io
import math
import os
import threading
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lightning.fabric.loggers.logger import _DummyExperiment
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from tensorboard.summary.writer.event_file_writer import _AsyncWriterThread

from yinggem.common.errors import UserError
from yinggem.common.files import append_text, is_utf8, write_atomically
from yinggem.runs.metrics import STEP, read_columns, read_metrics


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

    def resume_at(self, step: int) -> None:
        """Keep the rows up to `step`, after which the run goes on; later ones will come again."""
        kept = [row for row in read_metrics(self.path) if row[STEP] <= step]
        self._columns = read_columns(self.path)
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


class TensorBoard(TensorBoardLogger):
    """Lightning's TensorBoardLogger, writing into the run folder itself.

    TensorBoard knows names in UTF-8 only: a folder of another name is written to by its name from here where that is
    UTF-8, and not at all otherwise, with a note.
    """

    def __init__(self, save_dir: str) -> None:
        place = next((name for name in (save_dir, os.path.relpath(save_dir)) if is_utf8(name)), None)
        super().__init__(save_dir if place is None else place, name="", version="", default_hp_metric=False)
        if place is None:
            warnings.warn(f"TensorBoard cannot write to {save_dir}, whose name is not UTF-8.", stacklevel=2)
            self._experiment: Any = _DummyExperiment()

    def resume_at(self, step: int) -> None:
        """Tell TensorBoard to hide what was logged after `step`, for it will come again."""
        self._kwargs["purge_step"] = step + 1  # the first to hide

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Hand figures to the thread that writes them."""
        with self._writing():
            super().log_metrics(dict(metrics), step)

    @rank_zero_only
    def save(self) -> None:
        """Bring the events to disk, if there are any: the file is made with the first, after `resume_at`."""
        if self._experiment is None:
            return
        with self._writing():
            self.experiment.flush()

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Bring the events to disk; close the file where nothing comes any more: what follows would open another."""
        self.save()
        if status != "success":
            self.close()

    @rank_zero_only
    def close(self) -> None:
        """Close the file, after the results."""
        with self._writing():
            self.experiment.close()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """UserError where the thread that writes has failed; its own complaint is not printed."""
        threading.excepthook = _complain_about_others
        try:
            yield
        except OSError as error:
            raise UserError(
                f"Cannot write TensorBoard's events in {self.save_dir} ({error.strerror or error}); "
                "make room there, or leave them out with logger=csv."
            ) from error


def _complain_about_others(args: threading.ExceptHookArgs) -> None:
    if not isinstance(args.thread, _AsyncWriterThread):
        threading.__excepthook__(args)


def _number(value: float) -> str:
    return str(int(value)) if math.isfinite(value) and value == int(value) and abs(value) < 1e15 else repr(value)
