"""Train, generate and evaluate without what only Linux or POSIX has, for users on Windows and macOS.

Neither can be tried here, so the commands run in a Python from which those things were taken. What they do not show is
what Windows refuses and Linux allows, such as to replace a file that is open.
"""

import ast
import json
import os
import subprocess
import sys

import pytest
from running import ROOT, SMALL, TEXT

# Python runs a module of this name before anything else, in every process that is started with it on the path.
SITECUSTOMIZE = '''
import builtins, io, mmap, os, signal, subprocess, sys, warnings

for module in ("fcntl", "resource", "pwd", "grp", "termios", "tty", "pty"):
    sys.modules[module] = None  # to import it raises ModuleNotFoundError
MISSING = {
    os: ["fork", "forkpty", "sched_getaffinity", "getuid", "geteuid", "getgid", "getegid", "setsid", "killpg",
         "getpgid", "setpgid", "sysconf", "getloadavg", "mkfifo", "pread", "posix_fadvise", "statvfs", "chown", "nice",
         "O_DIRECTORY"],
    mmap: ["MADV_HUGEPAGE"],
    signal: ["SIGHUP", "SIGALRM", "SIGPIPE", "SIGQUIT", "alarm", "setitimer"],
}
for place, names in MISSING.items():
    for name in names:
        delattr(place, name)


def refused(error, *only):
    """A function that the system does not let this user call."""
    def refuse(*arguments, **options):
        raise error
    return refuse


os.symlink = refused(OSError(1314, "A required privilege is not held by the client"))
os.link = refused(OSError(1, "Incorrect function"))
before = {"kill": os.kill, "open": os.open, "io": io.open, "Popen": subprocess.Popen.__init__}


def kill(process, number):  # on Windows 0 is no question whether a process lives: it is Ctrl-C
    assert number != 0, "os.kill(pid, 0)"
    before["kill"](process, number)


def open_descriptor(path, flags, *arguments, **options):  # there a folder cannot be opened
    if os.path.isdir(path):
        raise PermissionError(13, "Permission denied", path)
    return before["open"](path, flags, *arguments, **options)


def open_file(file, *arguments, **options):
    if isinstance(file, (str, os.PathLike)) and str(file).startswith(("/proc/", "/sys/")):
        raise FileNotFoundError(2, "No such file or directory", str(file))
    return before["io"](file, *arguments, **options)


def start(self, *arguments, **options):
    for option in ("pass_fds", "process_group", "preexec_fn", "start_new_session"):
        assert not options.get(option), f"subprocess.Popen({option}=...)"
    before["Popen"](self, *arguments, **options)


os.kill, os.open, subprocess.Popen.__init__ = kill, open_descriptor, start
io.open = builtins.open = open_file
import multiprocessing
multiprocessing.set_start_method("spawn")
warnings.filterwarnings("ignore", "only soft file lock is available")  # filelock has another way on Windows
os.write(2, b"taken away\\n")  # in one piece, for processes that begin together share the file
'''


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a text, and the sitecustomize.py beside it."""
    folder = tmp_path_factory.mktemp("other system")
    (folder / "path").mkdir()
    (folder / "path" / "sitecustomize.py").write_text(SITECUSTOMIZE)
    (folder / "own.txt").write_text(TEXT)
    return folder


def runs(place, *arguments: str) -> str:
    """What a command prints that succeeds, and starts no process that is not started like this one."""
    path = os.pathsep.join([str(place / "path"), str(ROOT)])
    done = subprocess.run(
        [sys.executable, *arguments], cwd=place, capture_output=True, text=True, timeout=300,
        env=os.environ | {"PYTHONPATH": path},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    told = (line for line in done.stderr.splitlines() if not line.startswith("note: The learning rate goes on"))
    assert set(told) <= {"taken away"}, done.stderr
    return done.stdout


@pytest.mark.slow
def test_train_go_on_generate_evaluate_compare_and_quantize(place):
    train = [str(ROOT / "train.py"), *SMALL, "data.path=own.txt", "trainer.max_steps=6", "data.num_workers=1"]
    assert "after 6 steps" in runs(place, *train)
    more = runs(place, str(ROOT / "train.py"), "ckpt_path=last", "trainer.max_steps=8", "data.num_workers=0")
    assert "after 8 steps" in more
    generated = runs(place, str(ROOT / "generate.py"), "--json", "--max-new-tokens", "5")
    assert len(json.loads(generated)["tokens"]) == 5
    evaluated = json.loads(runs(place, "-m", "yinggem", "evaluate", "--json"))
    assert evaluated["data"] == str(place / "own.txt") and evaluated["tokens"] > 0
    assert (place / "outputs" / "latest").is_file()
    runs(place, "-m", "yinggem", "compare", "outputs", "--output", "comparison")
    assert (place / "comparison" / "results.csv").is_file()
    runs(place, "-m", "yinggem", "quantize", "--output", "small.ckpt")
    assert (place / "small.ckpt").is_file()


@pytest.mark.slow
@pytest.mark.soak
def test_a_sweep(place):
    words = ["-m", *SMALL, "data.path=own.txt", "trainer.max_steps=4", "seed=0,1"]
    assert "Compared in" in runs(place, str(ROOT / "train.py"), *words)


@pytest.mark.parametrize("path", sorted([*ROOT.glob("yinggem/**/*.py"), *ROOT.glob("hydra_plugins/*.py")]), ids=str)
def test_text_files_have_an_encoding(path):
    """The system's own is not UTF-8 on Windows."""
    for call in (node for node in ast.walk(ast.parse(path.read_bytes())) if isinstance(node, ast.Call)):
        name = call.func.id if isinstance(call.func, ast.Name) else getattr(call.func, "attr", "")
        named = {keyword.arg for keyword in call.keywords}
        binary = any("b" in str(part.value) for part in call.args[1:2] if isinstance(part, ast.Constant))
        opens = isinstance(call.func, ast.Name) and name == "open"
        if opens or (isinstance(call.func, ast.Attribute) and name in ("read_text", "write_text")):
            assert "encoding" in named or binary, f"line {call.lineno}"
