"""What processes that were started side by side, by torchrun, Slurm or a script, have to agree on before they train."""

import os
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from yinggem.common.errors import UserError
from yinggem.runs.processes import PARENT, environment_number, rank

SECONDS = 600  # to wait for the first process, which may still be loading Python from a slow disk


class Rendezvous:
    """Lets the first of the processes decide for all. A process on its own decides itself."""

    def __init__(self) -> None:
        self._store: Any = None  # kept open: the process group will meet at the same place
        self._questions = 0

    def agree(self, decide: Callable[[], str]) -> str:
        """What the first process decides; all must ask the same questions in the same order.

        Raises:
            UserError: the first process cannot be reached.
        """
        place = _meeting_place()
        if place is None:
            return decide()
        from torch.distributed import DistError, TCPStore

        host, port, serves = place
        key = f"yinggem/{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}/{self._questions}"
        self._questions += 1
        try:
            if self._store is None:
                wait = timedelta(seconds=SECONDS)
                self._store = TCPStore(host, port, None, serves, wait, wait_for_workers=False, multi_tenant=True)
            if rank() == 0:
                decision = decide()
                self._store.set(key, decision)
                return decision
            return str(self._store.get(key).decode())
        except DistError as error:
            raise UserError(
                f"The first process of this run cannot be reached at {host}:{port} ({str(error).splitlines()[0]}); "
                "check MASTER_ADDR and MASTER_PORT, and that it is running."
            ) from None


def _meeting_place() -> tuple[str, int, bool] | None:
    """Host, port, and whether this process serves there; None when nobody was started beside it."""
    names = os.environ
    if "TORCHELASTIC_RUN_ID" in names:
        served = names.get("TORCHELASTIC_USE_AGENT_STORE") == "True"  # by torchrun itself
        return names["MASTER_ADDR"], environment_number("MASTER_PORT"), rank() == 0 and not served
    interactive = names.get("SLURM_JOB_NAME") in ("bash", "interactive")  # as Lightning has it: srun was not used
    if environment_number("SLURM_NTASKS") > 1 and "SLURM_PROCID" in names and not interactive:
        from lightning.fabric.plugins.environments import SLURMEnvironment

        slurm = SLURMEnvironment()
        return slurm.main_address, slurm.main_port, rank() == 0
    if all(name in names for name in ("NODE_RANK", "MASTER_ADDR", "MASTER_PORT")) and PARENT not in names:
        return names["MASTER_ADDR"], environment_number("MASTER_PORT"), rank() == 0
    return None
