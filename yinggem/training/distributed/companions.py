"""Starting the other processes of a run on this machine, passing on what they report, ending when one of them fails."""

import contextlib
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from lightning.fabric.utilities.distributed import _set_num_threads_if_needed
from lightning.pytorch.strategies.launchers.subprocess_script import _SubprocessScriptLauncher

from yinggem.runs.processes import PARENT, VOICE, ProcessGroup

GRACE = 10  # seconds for this process to notice itself that another one is gone
STOPPED = {128 + signal.SIGINT, 128 + signal.SIGTERM}  # a stop is everybody's, and no failure


class Companions(_SubprocessScriptLauncher):
    """Lightning's launcher of processes, with a command that works in a sweep too, and one process that prints for all.

    Lightning's own would start the whole sweep again for every job, and when a process fails it kills the others
    without a word. torchrun would supervise as well, but only what is started through it: `python train.py
    trainer.devices=2` would become another program, whose exit status and Ctrl-C are not those of the run.

    Args:
        group: has the command, and asks this launcher what went wrong.
    """

    def __init__(self, environment: Any, processes: int, nodes: int, group: ProcessGroup) -> None:
        super().__init__(environment, processes, nodes)
        self.group, group.launcher = group, self
        self._started = False

    def launch(self, function: Callable[..., Any], *args: Any, trainer: Any = None, **kwargs: Any) -> Any:
        """Start the companions and call the function; how it ends is its caller's matter."""
        if self.cluster_environment.creates_processes_externally or not self.group.command:  # made in Python
            return super().launch(function, *args, trainer=trainer, **kwargs)
        self.cluster_environment.validate_settings(num_devices=self.num_processes, num_nodes=self.num_nodes)
        self._over = False
        self._start()
        _set_num_threads_if_needed(num_processes=self.num_processes)
        try:
            return function(*args, **kwargs)
        finally:
            self._over = True

    def _start(self) -> None:
        self._check_can_spawn_children()
        environment = self.cluster_environment
        shared = {
            "MASTER_ADDR": environment.main_address, "MASTER_PORT": str(environment.main_port),
            "NODE_RANK": str(environment.node_rank()), "LOCAL_RANK": str(environment.local_rank()),
            "WORLD_SIZE": str(self.num_processes * self.num_nodes), PARENT: "0",
        }  # fmt: skip
        os.environ |= shared
        self._heard, voice = os.pipe()
        for number in range(1, self.num_processes):
            own = {"LOCAL_RANK": str(number), PARENT: str(os.getpid()), VOICE: str(voice), "HYDRA_FULL_ERROR": ""}
            # Out of reach of the terminal's Ctrl-C, which is for this process: all stop together, after a step. One
            # that left on its own while the others are still starting would be waited for.
            command = self.group.command
            self.procs.append(subprocess.Popen(command, env=os.environ | own, pass_fds=(voice,), process_group=0))
        os.close(voice)
        self._started = True
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        """If another process has failed and this one would wait for it forever, say so and end."""
        while not self._failed():
            if all(process.poll() is not None for process in self.procs):
                return
            time.sleep(0.5)
        time.sleep(GRACE)
        if self._over:
            return
        print(f"error: {self.failure(0)}", file=sys.stderr, flush=True)
        for process in self.procs:
            with contextlib.suppress(OSError):
                process.kill()
        os._exit(2)

    def _failed(self) -> list[subprocess.Popen]:
        """The processes that ended badly."""
        return [process for process in self.procs if process.poll() not in (None, 0, *STOPPED)]

    def failure(self, seconds: float) -> str:
        """What is known about a failed companion, after waiting for some seconds; empty when none failed."""
        if not self._started:
            return ""
        if select.select([self._heard], [], [], seconds)[0]:
            heard = os.read(self._heard, 1 << 16).decode(errors="replace").splitlines()
            if heard:
                return heard[0]
        for process in self._failed():
            how = f"was killed by signal {-process.returncode}" if process.returncode < 0 else "failed"
            return f"Process {self.procs.index(process) + 1} of this run {how}; continue with ckpt_path=last."
        return ""


def use_companions(strategy: Any, group: ProcessGroup) -> None:
    """Put this launcher in the place of Lightning's; a strategy that has one makes a process group."""
    launcher = strategy.launcher
    if launcher is None:
        return
    group.formed = True
    if type(launcher) is _SubprocessScriptLauncher and os.name == "posix":
        environment, processes, nodes = launcher.cluster_environment, launcher.num_processes, launcher.num_nodes
        strategy._launcher = Companions(environment, processes, nodes, group)
