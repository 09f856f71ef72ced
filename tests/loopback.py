"""A server on loopback, in a thread of this process, and checkpoints for it."""

import asyncio
import threading
from pathlib import Path

import httpx
import numpy as np
import torch
import uvicorn

from yinggem.commands.serve import address, listen
from yinggem.inference.checkpoint import save_model
from yinggem.memory.ngram_memory import NgramMemory
from yinggem.model.config import ModelConfig
from yinggem.model.transformer import Transformer
from yinggem.serving.api import Service, make_app
from yinggem.serving.body import Limits
from yinggem.serving.metrics import Metrics
from yinggem.serving.served_model import ModelSource, Opening
from yinggem.text.tokenizer import Tokenizer

TEXT = "Shall I compare thee to a summer's day?\nThou art more lovely and more temperate.\nÉtés, été.\n" * 30
CONTEXT = 64


def write_checkpoint(path: Path, tokenizer: Tokenizer, memory: bool = True, seed: int = 0) -> Path:
    """A network too small to have learnt anything, and the memory of a text."""
    tokenizer.fit(lambda: [TEXT])
    torch.manual_seed(seed)
    model = Transformer(
        ModelConfig(tokenizer.vocab_size, 16, 2, 2, None, 24, attention_window=9, initializer_range=0.3)
    )
    known = NgramMemory(tokenizer.encode_array(TEXT).astype(np.uint16), tokenizer.vocab_size) if memory else None
    save_model(path, model, tokenizer, known, context_length=CONTEXT)
    return path


class Server:
    """A service that listens, until it is stopped; where it is `patient`, once its model is open."""

    def __init__(
        self, checkpoint: Path | None, limits: Limits, rows: int, waiting: int, run: Path | None, patient: bool, **app
    ) -> None:
        metrics = Metrics()
        opening = Opening("cpu", None, rows, waiting, metrics.count_tokens)
        self.source = ModelSource(checkpoint, opening, run, tell=lambda line: None)
        if patient:
            self.source.wait()
        self.service = Service(self.source, metrics, limits)
        listening = listen("127.0.0.1", 0)
        self.url = address(listening)
        made = make_app(self.service, **app)
        self._server = uvicorn.Server(uvicorn.Config(made, log_level="warning", access_log=False, lifespan="off"))
        self._thread = threading.Thread(target=lambda: asyncio.run(self._server.serve([listening])), daemon=True)
        self._thread.start()
        self.client = httpx.Client(base_url=self.url, timeout=60)

    def post(self, path: str = "/v1/completions", **content) -> httpx.Response:
        return self.client.post(path, json=content)

    def complete(self, **content) -> dict:
        """The response to a request that is granted."""
        response = self.post(**content)
        assert response.status_code == 200, response.text
        return response.json()

    def refused(self, status: int = 400, **content) -> str:
        """The sentence of one that is refused."""
        response = self.post(**content)
        assert response.status_code == status, response.text
        return response.json()["error"]["message"]

    def stop(self) -> None:
        self.client.close()
        self._server.should_exit = True
        self._thread.join(20)
        self.source.close()
