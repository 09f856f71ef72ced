"""Submitit's launchers as a sweep wants them: a process that dies takes no other with it.

hydra-submitit-launcher's own (hydra/launcher=submitit_local, submitit_slurm) work as well, but give up at the first job
that ends without a result, and start all local jobs at the same time.
"""

import contextlib
import math
import os
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus

from yinggem.common.errors import UserError
from yinggem.runs.result import read_result, write_result

try:
    from hydra_plugins.hydra_submitit_launcher.config import LocalQueueConf, SlurmQueueConf
    from hydra_plugins.hydra_submitit_launcher.submitit_launcher import BaseSubmititLauncher
except ImportError:  # the extra `cluster` is not installed: there is nothing to offer
    BaseSubmititLauncher = None

if BaseSubmititLauncher is not None:

    @dataclass
    class LocalConf(LocalQueueConf):
        """hydra/launcher=yinggem_local."""

        _target_: str = "hydra_plugins.yinggem_launcher.LocalJobs"
        array_parallelism: int = 2  # processes at the same time
        max_num_timeout: int = 0

    @dataclass
    class SlurmConf(SlurmQueueConf):
        """hydra/launcher=yinggem_slurm."""

        _target_: str = "hydra_plugins.yinggem_launcher.SlurmJobs"

    for name, node in (("yinggem_local", LocalConf), ("yinggem_slurm", SlurmConf)):
        ConfigStore.instance().store(group="hydra/launcher", name=name, node=node, provider="yinggem")

    @contextlib.contextmanager
    def stderr_into(path: Path) -> Iterator[None]:
        """For processes started here: submitit's, when they are stopped, print the traceback of a KeyboardInterrupt."""
        path.parent.mkdir(parents=True, exist_ok=True)
        kept = os.dup(2)
        with open(path, "ab") as file:
            os.dup2(file.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)

    class Jobs(BaseSubmititLauncher):
        """Hands jobs to submitit and waits for all of them, whatever becomes of each."""

        def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
            """Part of Hydra's interface."""
            folder = Path(self.config.hydra.sweep.dir)
            calls = [(list(overrides), "hydra.sweep.dir", number, f"job_id_for_{number}", Singleton.get_state())
                     for number, overrides in enumerate(job_overrides, initial_job_idx)]  # fmt: skip
            with self.submitted(calls) as jobs:
                print(f"Handed {len(calls)} jobs to submitit; what they say is in {folder / '.submitit'}.", flush=True)
                return [self.result(job, folder / str(call[2])) for job, call in zip(jobs, calls, strict=True)]

        def executor(self) -> Any:
            """Submitit's, with the resources that are set."""
            import submitit

            params = dict(self.params)
            folder, timeouts = params.pop("submitit_folder"), params.pop("max_num_timeout")
            made = submitit.AutoExecutor(folder, self._EXECUTOR, **{f"{self._EXECUTOR}_max_num_timeout": timeouts})
            shared = {"timeout_min", "cpus_per_task", "gpus_per_node", "tasks_per_node", "mem_gb", "nodes", "name",
                      "stderr_to_stdout"}  # fmt: skip
            made.update_parameters(**{key if key in shared else f"{self._EXECUTOR}_{key}": value
                                      for key, value in params.items()})  # fmt: skip
            return made

        def submitted(self, calls: Sequence[tuple[Any, ...]]) -> contextlib.AbstractContextManager[Sequence[Any]]:
            """The jobs, handed over."""
            raise NotImplementedError

        def result(self, job: Any, folder: Path) -> JobReturn:
            """What a job returned; infinity and a note in its folder if its process ended without a result."""
            import submitit

            try:
                return job.results()[0]
            except (submitit.core.utils.UncompletedJobError, submitit.core.utils.FailedSubmissionError):
                sentence = f"Its process ended without a result (killed or out of memory?); see {job.paths.stderr}."
                if not read_result(folder) and folder.is_dir():
                    write_result(folder, {"error": sentence, "lost": True})
                print(f"error in job {folder.name}: {sentence}", file=sys.stderr)
                lost = JobReturn(status=JobStatus.COMPLETED)
                lost.return_value = math.inf
                return lost

    class LocalJobs(Jobs):
        """Processes of this machine, `array_parallelism` of them at the same time; they end with the sweep."""

        _EXECUTOR = "local"

        @contextlib.contextmanager
        def submitted(self, calls: Sequence[tuple[Any, ...]]) -> Iterator[Sequence[Any]]:
            """Start the jobs as room becomes free."""
            limit = self.params.pop("array_parallelism", 1)
            executor = self.executor()
            jobs: list[Any] = []
            self.params["array_parallelism"] = limit
            try:
                for call in calls:
                    while sum(not job.done() for job in jobs) >= limit:
                        time.sleep(0.2)
                    with stderr_into(Path(self.config.hydra.sweep.dir) / ".submitit" / "controllers.log"):
                        jobs.append(executor.submit(self, *call))
                yield jobs
            finally:
                for job in jobs:
                    if not job.done():
                        job.cancel()

    class SlurmJobs(Jobs):
        """An array of Slurm, `array_parallelism` jobs at the same time; they go on when the sweep is stopped here."""

        _EXECUTOR = "slurm"

        @contextlib.contextmanager
        def submitted(self, calls: Sequence[tuple[Any, ...]]) -> Iterator[Sequence[Any]]:
            """Submit the array."""
            if shutil.which("sbatch") is None or shutil.which("srun") is None:
                raise UserError(
                    "launcher=slurm needs Slurm's sbatch and srun, which are not on this machine; "
                    "type the command on a login node, or use launcher=local."
                )
            yield self.executor().map_array(self, *zip(*calls, strict=True))
