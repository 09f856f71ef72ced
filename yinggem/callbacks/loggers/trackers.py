"""Experiment trackers, all optional: wandb and mlflow, quiet, and found again by a run that is continued."""

import hashlib
import importlib.util
import logging
import os
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import MLFlowLogger, WandbLogger
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from yinggem.callbacks.loggers.late_logger import LateLogger
from yinggem.common.errors import UserError

FOLDER_TAG = "yinggem.run"


class Wandb(LateLogger, WandbLogger):
    """Lightning's WandbLogger. The same run folder is the same run there: what is continued appears once.

    Args:
        save_dir: the run folder.
        **options: as WandbLogger.

    Raises:
        UserError: wandb is not installed; later: it cannot be reached, or wants a login.
    """

    def __init__(self, save_dir: str, **options: Any) -> None:
        check_installed("wandb")
        os.environ.setdefault("WANDB_SILENT", "true")  # its banners; its errors come as exceptions
        place = Path(save_dir).resolve()
        own: dict[str, Any] = {"name": "/".join(place.parts[-2:]), "id": run_id(place), "log_model": False}
        super().__init__(save_dir=save_dir, **(own | options))
        self._wandb_init.pop("anonymous", None)  # Lightning passes it on, and wandb warns that it means nothing now

    @property
    def experiment(self) -> Any:
        """The run of wandb, begun at the first use."""
        if self.begun:
            Path(str(self.save_dir)).mkdir(parents=True, exist_ok=True)
        try:
            return super().experiment
        except Exception as error:
            reason = " ".join(str(error).split()).rstrip(".")
            raise UserError(
                f"wandb cannot start ({reason}); log in with `wandb login`, or set "
                "logger.wandb.offline=true and upload the run later with `wandb sync`."
            ) from error

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Nothing after a success: the results are still to come, and then `close`."""
        if status != "success":
            self.close(1)

    @rank_zero_only
    def close(self, exit_code: int = 0) -> None:
        """End the run there; the next job of a sweep begins one of its own."""
        if self._experiment is not None:
            self._experiment.finish(exit_code=exit_code)
            self._experiment = None


class MLFlow(LateLogger, MLFlowLogger):
    """Lightning's MLFlowLogger. The same run folder is the same run there: what is continued appears once.

    Args:
        save_dir: the run folder.
        **options: as MLFlowLogger.

    Raises:
        UserError: mlflow is not installed.
    """

    def __init__(self, save_dir: str, **options: Any) -> None:
        check_installed("mlflow")
        os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "ERROR")  # it sets its level itself when it is imported
        for name in ("mlflow", "alembic", "lightning.pytorch.loggers.mlflow"):
            logging.getLogger(name).setLevel(logging.ERROR)
        self.folder = str(Path(save_dir).resolve())
        own: dict[str, Any] = {"run_name": "/".join(Path(self.folder).parts[-2:]), "tags": {FOLDER_TAG: self.folder}}
        super().__init__(save_dir=save_dir, **(own | options))

    @rank_zero_only
    def resume_at(self, step: int, validated: bool = True) -> None:
        """Take up the run of this folder, if it is known there."""
        experiment = self._mlflow_client.get_experiment_by_name(self._experiment_name)
        if experiment is None:
            return
        quoted = self.folder.replace("'", "")
        runs = self._mlflow_client.search_runs([experiment.experiment_id], f"tags.`{FOLDER_TAG}` = '{quoted}'")
        if runs:
            self._run_id = runs[0].info.run_id
            self._mlflow_client.update_run(self._run_id, status="RUNNING")

    @rank_zero_only
    def finalize(self, status: str = "success") -> None:
        """Nothing after a success: the results are still to come, and then `close`."""
        if status != "success":
            super().finalize(status)

    @rank_zero_only
    def close(self) -> None:
        """End the run there."""
        super().finalize("success")


def check_installed(package: str) -> None:
    """UserError with what to install, when a package is missing."""
    if importlib.util.find_spec(package) is None:
        raise UserError(f"logger={package} needs {package}, which is not installed: pip install 'yinggem[{package}]'.")


def run_id(folder: Path) -> str:
    """A short name that is always the same for a folder."""
    return hashlib.sha256(str(folder).encode()).hexdigest()[:12]
