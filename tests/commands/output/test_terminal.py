"""generate --interactive at a terminal, as a person types."""

import contextlib
import os
import subprocess
import sys
import time
from argparse import Namespace
from pathlib import Path

import pytest
from loopback import write_checkpoint

import yinggem
from yinggem.commands.output.history import LineHistory
from yinggem.commands.output.terminal import Terminal
from yinggem.common.errors import UserError
from yinggem.inference.files.stored_model import read_model
from yinggem.inference.networks.opening import open_network
from yinggem.inference.sampling import Sampling
from yinggem.text.tokenizer import ByteTokenizer

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("talked") / "a.ckpt", ByteTokenizer(), memory=False)


@pytest.fixture
def terminal(checkpoint) -> tuple[Terminal, list[str]]:
    shown: list[str] = []
    options = Namespace(memory=None, max_copy=None, training=None, seed=1, stop=[], counts=None, ignore_end=False,
                        max_new_tokens=10)  # fmt: skip
    network, plain = open_network(read_model(checkpoint), "cpu"), Sampling(repetition_penalty=1.0)
    return Terminal(network, ByteTokenizer(), options, plain, shown.append), shown


def test_commands_change_what_comes_next(terminal, checkpoint, tmp_path):
    talk, shown = terminal
    local = yinggem.load(checkpoint, device="cpu")
    for line in ("/temperature 0.5", "/top_k 7", "/seed 9", "/length 12", "Thou"):
        talk.take(line)
    expected = local.generate("Thou", max_new_tokens=12, seed=9, temperature=0.5, top_k=7)
    assert "".join(shown) == expected + "\n"
    talk.take(f"/save {tmp_path / 'text.txt'}")
    assert (tmp_path / "text.txt").read_text() == "Thou" + expected
    talk.take("/reset")
    talk.take("//Thou")
    assert talk.conversation.text.startswith("/Thou")
    talk.take("/show")
    assert "/temperature 0.5\n" in shown[-1] and "/seed 9\n" in shown[-1] and "/top_k 7\n" in shown[-1]
    talk.take("/top_k off")
    talk.take("/show")
    assert "/top_k off\n" in shown[-1]
    with pytest.raises(EOFError):
        talk.take("/quit")


@pytest.mark.parametrize(
    "line, word",
    [("/temprature 1", "temperature"), ("/temperature", "number"), ("/temperature -1", "temperature"),
     ("/seed x", "seed"), ("/length 0", "length"),
     ("/save", "name"), ("/save .", "there already"), ("/top_k 1.5", "number"),
     ("/temperature off", "temperature"), ("/", "help")],
)  # fmt: skip
def test_what_cannot_be_done_is_said(terminal, line, word):
    with pytest.raises(UserError, match=word):
        terminal[0].take(line)


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="terminals are others there")
def test_ctrl_c_stops_the_text_and_not_the_program_and_lines_are_kept(checkpoint, tmp_path):
    import pty

    own, other = pty.openpty()
    words = [
        sys.executable,
        str(ROOT / "generate.py"),
        "--checkpoint",
        str(checkpoint),
        "--interactive",
        "--device",
        "cpu",
    ]
    typed_before = tmp_path / "state" / "lines"
    LineHistory(typed_before).add("/length 7")
    running = subprocess.Popen([*words, "--max-new-tokens", "2000000"], stdin=other, stdout=other, stderr=other,
                               start_new_session=True, preexec_fn=take_terminal,
                               env=os.environ | {"YINGGEM_HISTORY": str(typed_before), "TERM": "xterm"})  # fmt: skip
    os.close(other)
    seen = b""

    def until(text: bytes) -> None:
        nonlocal seen
        end = time.monotonic() + 60
        while text not in seen:
            assert time.monotonic() < end, seen[-500:]
            seen += os.read(own, 1 << 16)
        seen = seen.partition(text)[2]

    until(b"> ")
    os.write(own, b"\x1b[A\n")  # the arrow brings back what another session typed
    until(b"/length 7")
    until(b"> ")
    os.write(own, b"/length 2000000\n")
    until(b"> ")
    os.write(own, b"Thou\n")
    while len(seen) < 2000:
        seen += os.read(own, 1 << 16)
    os.write(own, b"\x03")
    until(b"^C")
    until(b"> ")  # what was to be 2,000,000 tokens has ended
    os.write(own, b"/length 5\n/show\n")
    until(b"/seed 0\r\n/length 5\r\n")
    until(b"> ")
    os.write(own, b"\x04")
    assert running.wait(30) == 0
    os.close(own)
    assert LineHistory(typed_before).lines() == ["/length 7", "/length 2000000", "Thou", "/length 5", "/show"]


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="terminals are others there")
@pytest.mark.parametrize("columns, together", [(120, True), (60, False)])
def test_samples_stand_side_by_side_where_there_is_room(checkpoint, columns, together):
    import fcntl
    import pty
    import struct
    import termios

    own, other = pty.openpty()
    fcntl.ioctl(other, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    words = [sys.executable, str(ROOT / "generate.py"), "--checkpoint", str(checkpoint), "--num-samples", "3"]
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
    running = subprocess.Popen([*words, "--max-new-tokens", "9"], stdin=other, stdout=other, stderr=other,
                               env=environment | {"TERM": "xterm"})  # fmt: skip
    os.close(other)
    seen = b""
    with contextlib.suppress(OSError):  # how a terminal says that nobody is left
        while part := os.read(own, 1 << 16):
            seen += part
    os.close(own)
    assert running.wait(30) == 0
    titles = [line for line in seen.split(b"\n") if b"sample 1" in line]
    assert titles and all((b"sample 3" in line) == together for line in titles)


def take_terminal() -> None:
    """Of the process: Ctrl-C that is typed reaches it."""
    import fcntl
    import termios

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
