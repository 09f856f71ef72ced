"""Processes as `python ...` starts them, without the seconds that importing torch and Lightning takes.

A server, one for every worker of pytest, imports what all need and forks: each process is a real one, that can be
killed, limited and asked for its exit status. What a test has to say about how Python itself starts or ends, about its
streams' encoding or its environment's `PYTHON...`, takes `subprocess`.
"""

import atexit
import contextlib
import io
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

# Nothing of ours: processes run other copies of the package too.
IMPORTED = ["torch", "lightning.pytorch", "lightning.pytorch.callbacks", "lightning.pytorch.loggers", "hydra.main",
            "hydra.utils", "matplotlib.figure", "torch.utils.tensorboard", "torch.distributed.fsdp",
            "shortcuts"]  # fmt: skip
ROOT = Path(__file__).parent.parent
TESTS = {str(ROOT / "tests"), str(ROOT / "tests" / "faults"), ""}
PATH = [place for place in sys.path if place not in TESTS]  # before any test has added to it
SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(IMPORTED)


class Forked:
    """A process, with the part of `subprocess.Popen` that tests use.

    Args:
        words: what follows `python` on a command line: a script, or -m and a module, or -c and code; then arguments.
        out, err: where it prints.
        handlers: of signals that it is started with, as `nohup` does.
        limits: of resources, as `ulimit` sets them.
        session: whether it leads a session of its own, with the processes that it starts.
    """

    def __init__(
        self,
        words: Sequence[object],
        cwd: object,
        env: dict[str, str],
        out: IO,
        err: IO,
        handlers: dict[int, signal.Handlers] | None = None,
        limits: dict[int, tuple[int, int]] | None = None,
        session: bool = False,
    ) -> None:
        begin = handlers or {}, limits or {}, session
        arguments = [str(word) for word in words], str(cwd or os.getcwd()), dict(env), out.name, err.name, PATH, begin
        self._process = SERVER.Process(target=_run, args=arguments)
        self._process.start()
        self.pid = self._process.pid or 0

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        status = self.poll()
        if status is None:
            raise subprocess.TimeoutExpired(str(self.pid), timeout or 0)
        return status

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def run(
    words: Sequence[object], cwd: object = None, env: dict[str, str] | None = None, timeout: float = 900
) -> subprocess.CompletedProcess[str]:
    """As `subprocess.run` with captured text."""
    with tempfile.TemporaryDirectory() as folder:
        with open(Path(folder, "out"), "wb") as out, open(Path(folder, "err"), "wb") as err:
            process = Forked(words, cwd, dict(os.environ if env is None else env), out, err)
        try:
            status = process.wait(timeout)
        except BaseException:
            process.kill()
            raise
        told = [Path(folder, name).read_text(encoding="utf-8") for name in ("out", "err")]
    return subprocess.CompletedProcess([str(word) for word in words], status, *told)


def _run(
    words: list[str], cwd: str, env: dict[str, str], out: str, err: str, path: list[str], begin: tuple[Any, Any, bool]
) -> None:
    """Become what `python *words` would be, with `path` to import from beside what `env` says."""
    for number, (name, flags) in enumerate(((os.devnull, os.O_RDONLY), (out, os.O_WRONLY), (err, os.O_WRONLY))):
        opened = os.open(name, flags | os.O_APPEND)
        os.dup2(opened, number)
        os.close(opened)
    sys.stdin = io.TextIOWrapper(io.FileIO(0, closefd=False), encoding="utf-8")
    sys.stdout = io.TextIOWrapper(io.BufferedWriter(io.FileIO(1, "w", closefd=False)), encoding="utf-8")
    sys.stderr = io.TextIOWrapper(
        io.BufferedWriter(io.FileIO(2, "w", closefd=False)), "utf-8", "backslashreplace", line_buffering=True
    )
    sys.__stdout__, sys.__stderr__ = sys.stdout, sys.stderr  # type: ignore[misc]
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    time.tzset()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    _begin(*begin)
    safe = ["", *env.get("PYTHONPATH", "").split(os.pathsep)]
    first = str(Path(words[0]).parent) if words[0].endswith(".py") else cwd
    sys.path[:] = [
        *([] if "PYTHONSAFEPATH" in env else [first]),
        *(place for place in safe if place),
        *path,
    ]
    sys.dont_write_bytecode = "PYTHONDONTWRITEBYTECODE" in env
    for place in safe:
        if place and Path(place, "sitecustomize.py").is_file():
            runpy.run_path(str(Path(place, "sitecustomize.py")))
    try:
        if words[0] == "-m":
            sys.argv[:] = words[1:]
            runpy.run_module(words[1], run_name="__main__", alter_sys=True)
        elif words[0] == "-c":
            sys.argv[:] = ["-c", *words[2:]]
            exec(compile(words[1], "<string>", "exec"), {"__name__": "__main__"})
        else:
            sys.argv[:] = words
            runpy.run_path(words[0], run_name="__main__")
    finally:
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
        atexit._run_exitfuncs()


def _begin(handlers: dict[int, signal.Handlers], limits: dict[int, tuple[int, int]], session: bool) -> None:
    """What `subprocess.Popen` leaves to preexec_fn and start_new_session."""
    for number, handler in handlers.items():
        signal.signal(number, handler)
    if limits:
        import resource

        for what, limit in limits.items():
            resource.setrlimit(what, limit)
    if session:
        os.setsid()
