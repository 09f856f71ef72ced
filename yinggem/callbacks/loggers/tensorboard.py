"""TensorBoard's events, in the run folder."""

import contextlib
import os
import threading
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

from lightning.fabric.loggers.logger import _DummyExperiment
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from tensorboard.summary.writer.event_file_writer import _AsyncWriterThread

from yinggem.callbacks.loggers.late_logger import LateLogger
from yinggem.common.errors import UserError
from yinggem.common.files import is_utf8


class TensorBoard(LateLogger, TensorBoardLogger):
    """Lightning's TensorBoardLogger, writing into the run folder itself.

    TensorBoard takes paths in UTF-8 only. A folder whose full path is something else is named by its path from here. If
    that is not UTF-8 either, nothing is written, and a warning says so.
    """

    def __init__(self, save_dir: str) -> None:
        place = next((name for name in (save_dir, os.path.relpath(save_dir)) if is_utf8(name)), None)
        super().__init__(save_dir if place is None else place, name="", version="", default_hp_metric=False)
        if place is None:
            warnings.warn(f"TensorBoard cannot write to {save_dir}, whose name is not UTF-8.", stacklevel=2)
            self._experiment: Any = _DummyExperiment()

    def resume_at(self, step: int, validated: bool = True) -> None:
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
        """Bring the events to disk; after a failure, close the file: nothing more is logged."""
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
