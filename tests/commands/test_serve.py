"""yinggem serve as a process: it starts at once, ends what it began, and refuses what it cannot do."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from loopback import write_checkpoint

from yinggem.commands.serve import KEY, listen, main, parse_serving
from yinggem.common.errors import UserError
from yinggem.text.tokenizer import ByteTokenizer

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("served") / "a.ckpt", ByteTokenizer(), memory=False)


@pytest.fixture
def process(checkpoint) -> Iterator[tuple[subprocess.Popen, str]]:
    """The process, and where it answers."""
    words = [sys.executable, "-m", "yinggem", "serve", "--checkpoint", str(checkpoint), "--port", "0"]
    running = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert running.stdout
    line = running.stdout.readline()
    found = re.search(r"at (http://127\.0\.0\.1:\d+) \(", line)
    assert found, line + running.communicate()[1]
    yield running, found[1]
    running.kill()
    running.wait()


@pytest.mark.slow
def test_sigterm_lets_what_was_begun_come_to_its_end(process):
    running, url = process
    asked = {"prompt": "O", "max_tokens": 3000, "stream": True, "seed": 0}
    with httpx.stream("POST", f"{url}/v1/completions", json=asked, timeout=60) as response:
        lines = response.iter_lines()
        next(lines)
        running.send_signal(signal.SIGTERM)
        last = [line for line in lines if line][-2:]
    assert last[1] == "data: [DONE]" and json.loads(last[0][6:])["choices"][0]["finish_reason"] == "length"
    assert running.wait(30) == 0 and running.communicate()[1] == ""


def test_only_this_machine_can_ask_unless_another_place_is_named():
    assert parse_serving([]).host == "127.0.0.1"


def test_a_port_that_is_taken_is_named(checkpoint):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(UserError, match=rf"127\.0\.0\.1:{port} .*--port"):
            main(["--checkpoint", str(checkpoint), "--port", str(port)])
    with pytest.raises(UserError, match=r"no\.such\.host\.invalid"):
        listen("no.such.host.invalid", 80)


@pytest.mark.parametrize(
    "words, word",
    [
        (["--timeout", "0"], "--timeout"), (["--timeout", "nan"], "--timeout"), (["--follow", "nowhere"], "nowhere"),
        (["--cors", ""], "--cors"), (["--api-key", ""], "--api-key"), (["--name", ""], "--name"),
        (["--checkpoint", "missing.ckpt", "--port", "0"], "missing.ckpt"),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_said_in_one_sentence(words, word, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(KEY, raising=False)
    with pytest.raises(UserError, match=word):
        main(words)


@pytest.mark.parametrize(
    "words", [["--rows", "65"], ["--port", "70000"], ["--queue", "-1"], ["--checkpoint", "a", "--follow", "b"]]
)
def test_options_out_of_range_end_with_status_2(words, capsys):
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2 and words[0] in capsys.readouterr().err


def test_the_key_can_come_from_the_environment(monkeypatch):
    monkeypatch.setenv(KEY, "secret")
    assert parse_serving([]).api_key == "secret" and parse_serving(["--api-key", "other"]).api_key == "other"


@pytest.mark.slow
def test_without_the_extra_the_sentence_says_what_to_install():
    code = "import sys; sys.modules['uvicorn'] = None\nfrom yinggem.__main__ import main; sys.exit(main(['serve']))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, env=os.environ)
    assert done.returncode == 2 and "pip install 'yinggem[serve]'" in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.slow
def test_a_checkpoint_that_is_damaged_ends_the_server_with_one_sentence(tmp_path):
    (tmp_path / "bad.ckpt").write_bytes(b"no checkpoint")
    words = ["-m", "yinggem", "serve", "--checkpoint", str(tmp_path / "bad.ckpt"), "--port", "0"]
    done = subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert "bad.ckpt" in done.stderr


@pytest.mark.slow
def test_serving_loads_no_torch(checkpoint):
    """Else it would take seconds to answer."""
    code = f"""
import sys
from pathlib import Path
from yinggem.commands import serve
import yinggem.serving.api, uvicorn
from yinggem.serving.served_model import ModelSource, Opening
path, run = serve.what_is_served(serve.parse_serving(["--checkpoint", {str(checkpoint)!r}]))
source = ModelSource(path, Opening(None, None, 4, 4, lambda drawn, read: None))
source.wait()
assert source.current
assert not {{"torch", "lightning", "hydra", "pydantic"}} & set(sys.modules), sys.modules
"""
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
