"""What the tests of the server share."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from loopback import Server, write_checkpoint

import yinggem
from yinggem.inference.language_model import LanguageModel
from yinggem.serving.body import Limits
from yinggem.text.tokenizer import BPETokenizer, ByteTokenizer


@pytest.fixture(scope="session")
def byte_checkpoint(tmp_path_factory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("byte") / "a.ckpt", ByteTokenizer())


@pytest.fixture(scope="session")
def bpe_checkpoint(tmp_path_factory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("bpe") / "a.ckpt", BPETokenizer(280))


@pytest.fixture(scope="session")
def start() -> Iterator[Callable[..., Server]]:
    """Starts servers, which end with the tests."""
    started: list[Server] = []

    def begin(checkpoint=None, limits=None, rows=4, waiting=8, run=None, patient=True, **app) -> Server:
        started.append(Server(checkpoint, limits or Limits(2000, 500, 60), rows, waiting, run, patient, **app))
        return started[-1]

    yield begin
    for server in started:
        server.stop()


@pytest.fixture(scope="session")
def server(start, byte_checkpoint) -> Server:
    """Of a byte tokenizer, with a memory."""
    return start(byte_checkpoint)


@pytest.fixture(scope="session")
def local(byte_checkpoint) -> LanguageModel:
    """The same model without a server: what `yinggem generate` says."""
    return yinggem.load(byte_checkpoint, device="cpu")
