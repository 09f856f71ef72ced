"""The server between its clients: who goes away, who may not ask, what is full, and what happens under load."""

import asyncio
import json
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from loopback import Server
from running import sized

from yinggem.serving import served_model
from yinggem.serving.body import Limits

LONG: dict[str, Any] = {"prompt": "O", "max_tokens": 1 << 20, "seed": 0, "memory": 0}  # nobody waits for its end
ENDLESS = Limits(1 << 20, 1 << 20, 60)


def figures(server: Server) -> dict[str, float]:
    lines = [line.rsplit(" ", 1) for line in server.client.get("/metrics").text.splitlines() if line[0] != "#"]
    return {name: float(value) for name, value in lines}


def until(condition, seconds: float = 20) -> None:
    """Wait for what another thread brings about."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def connect(server: Server, **content: object) -> socket.socket:
    """A client that has sent a request, and does nothing more."""
    body = json.dumps(content).encode()
    client = socket.create_connection(server.url.removeprefix("http://").split(":"))  # type: ignore[arg-type]
    head = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    client.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
    return client


def test_the_server_tells_about_itself(server):
    assert server.client.get("/health").json() == {"status": "ok"}
    (entry,) = server.client.get("/v1/models").json()["data"]
    assert entry["id"] == "yinggem" and entry["object"] == "model" and entry["created"] > 1e9
    assert server.client.get("/v1/models/yinggem").json() == entry
    assert server.client.get("/v1/models/other").status_code == 404
    assert "'gpt-4'" in server.refused(404, model="gpt-4", prompt="a")
    before = figures(server)
    server.complete(prompt="abcd", max_tokens=7)
    until(lambda: figures(server)["yinggem_tokens_drawn_total"] == before.get("yinggem_tokens_drawn_total", 0) + 7)
    after = figures(server)
    assert after["yinggem_tokens_read_total"] - before.get("yinggem_tokens_read_total", 0) == 4
    assert after['yinggem_requests_total{status="200"}'] >= 1 and after["yinggem_rows"] == 4


@pytest.mark.parametrize(
    "method, path, status", [("GET", "/nowhere", 404), ("GET", "/v1/completions", 405), ("POST", "/health", 405)]
)
def test_what_is_not_served_is_said_in_the_protocol_s_form(server, method, path, status):
    response = server.client.request(method, path, json={})
    assert response.status_code == status and path in response.json()["error"]["message"]


@pytest.mark.parametrize(
    "body, word", [(b"{", "JSON"), (b"[1]", "object"), (b"\xff", "JSON"), (b"[" * 100_000, "JSON"), (b"", "JSON")]
)
def test_a_body_that_is_no_object_is_refused(server, body, word):
    response = server.client.post("/v1/completions", content=body, headers={"Content-Type": "application/json"})
    assert response.status_code == 400 and word in response.json()["error"]["message"]


def test_a_body_that_is_too_long_is_not_read_to_its_end(server):
    response = server.client.post(
        "/v1/completions", content=b" " * (17 << 20), headers={"Content-Type": "application/json"}
    )
    assert response.status_code == 413


def test_tokenizing_goes_there_and_back(server):
    text = "Thou é\n"
    ids = server.post("/tokenize", prompt=text, add_special_tokens=False).json()
    assert ids["tokens"] == [*text.encode()] and ids["count"] == len(text.encode())
    assert server.post("/detokenize", tokens=ids["tokens"]).json() == {"prompt": text}
    info = server.client.get("/tokenizer_info").json()
    assert server.post("/tokenize", prompt=info["eos_token"]).json()["tokens"] == [10]  # what texts begin with
    assert server.post("/tokenize", prompt=5).status_code == server.post("/detokenize", tokens=["a"]).status_code == 400
    assert "999" in server.post("/detokenize", tokens=[999]).json()["error"]["message"]


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_goes_away_ends_its_generation(start, byte_checkpoint, stream):
    server = start(byte_checkpoint, ENDLESS)
    client = connect(server, stream=stream, **LONG)
    until(lambda: figures(server)["yinggem_tokens_drawn_total"] > 20)
    client.close()
    until(lambda: figures(server)["yinggem_rows_busy"] == 0)
    until(lambda: figures(server).get('yinggem_requests_total{status="499"}') == 1)
    assert figures(server)["yinggem_tokens_drawn_total"] < LONG["max_tokens"] / 2
    server.stop()


def test_who_does_not_read_costs_the_others_nothing_and_more_than_fit_are_refused(start, byte_checkpoint):
    server = start(byte_checkpoint, ENDLESS, rows=2, waiting=0)
    slow = connect(server, stream=True, **LONG)  # never reads
    until(lambda: figures(server)["yinggem_rows_busy"] == 1)
    expected = server.complete(prompt="Thou", seed=1, max_tokens=20)["choices"]
    other = connect(server, stream=True, **LONG)
    until(lambda: figures(server)["yinggem_rows_busy"] == 2)
    response = server.post(prompt="Thou")
    assert response.status_code == 429 and response.headers["retry-after"] == "1"
    assert response.json()["error"]["type"] == "rate_limit_error"
    other.close()
    until(lambda: figures(server)["yinggem_rows_busy"] == 1)
    assert server.complete(prompt="Thou", seed=1, max_tokens=20)["choices"] == expected
    slow.close()
    server.stop()


def test_time_is_limited_and_said_in_a_stream_too(start, byte_checkpoint):
    server = start(byte_checkpoint, Limits(100, 1 << 20, 0.2))
    assert "longer than 0.2 s" in server.refused(503, **LONG)
    *_, last = server.post(stream=True, **LONG).text.strip().split("\n\n")
    assert "longer than 0.2 s" in json.loads(last.removeprefix("data: "))["error"]["message"]
    server.stop()


def test_a_newer_best_checkpoint_is_taken_without_a_pause(start, tmp_path, byte_checkpoint, monkeypatch):
    from loopback import write_checkpoint

    from yinggem.serving import served_model
    from yinggem.text.tokenizer import ByteTokenizer

    monkeypatch.setattr(served_model, "POLL", 0.02)
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    server = start(None, ENDLESS, run=tmp_path)
    assert server.client.get("/health").status_code == 503
    assert "no checkpoint yet" in server.refused(503, prompt="a")
    (folder / "best.ckpt").write_bytes(byte_checkpoint.read_bytes())
    until(lambda: server.client.get("/health").status_code == 200)
    asked = {"prompt": "Thou", "seed": 1, "max_tokens": 20, "memory": 0}
    before = server.complete(**asked)["choices"][0]["text"]
    running = connect(server, stream=True, **LONG)
    until(lambda: figures(server)["yinggem_rows_busy"] == 1)
    (folder / "best.ckpt").write_bytes(b"damaged")  # is not taken
    time.sleep(0.1)
    write_checkpoint(folder / "new.ckpt", ByteTokenizer(), seed=1)
    (folder / "new.ckpt").replace(folder / "best.ckpt")
    until(lambda: server.complete(**asked)["choices"][0]["text"] != before)
    assert figures(server)["yinggem_models_replaced_total"] == 2
    drawn = figures(server)["yinggem_tokens_drawn_total"]
    until(lambda: figures(server)["yinggem_tokens_drawn_total"] > drawn + 20)  # its model goes on with it
    assert b"error" not in running.recv(1 << 20)
    running.close()
    server.stop()


@pytest.mark.slow
def test_under_load_none_is_lost_and_every_text_is_its_own(server, local):
    """16 clients, each a connection; some stream, some ask for several samples."""
    count = sized(200, 1000)
    expected = [local.generate("Thou", max_new_tokens=12, seed=seed, memory=0) for seed in range(10)]

    async def client(numbers: list[int], link: httpx.AsyncClient) -> int:
        for number in numbers:
            seed, stream = number % 9, number % 3 == 0
            content = {
                "prompt": "Thou",
                "max_tokens": 12,
                "seed": seed,
                "memory": 0,
                "stream": stream,
                "n": 1 + (not stream),
            }
            response = await link.post("/v1/completions", json=content)
            while response.status_code == 429:
                await asyncio.sleep(0.05)
                response = await link.post("/v1/completions", json=content)
            if stream:
                parts = [json.loads(line[6:]) for line in response.text.split("\n\n") if line[6:].startswith("{")]
                assert "".join(part["choices"][0]["text"] for part in parts) == expected[seed]
            else:
                assert [choice["text"] for choice in response.json()["choices"]] == expected[seed : seed + 2]
        return len(numbers)

    async def all_clients() -> int:
        async with httpx.AsyncClient(base_url=server.url, timeout=60) as link:
            return sum(await asyncio.gather(*(client([*range(k, count, 16)], link) for k in range(16))))

    assert asyncio.run(all_clients()) == count
    assert figures(server)["yinggem_rows_busy"] == figures(server)["yinggem_requests_waiting"] == 0


def test_many_at_once_wait_for_their_turn(start, byte_checkpoint):
    server = start(byte_checkpoint, rows=2, waiting=32)
    with ThreadPoolExecutor(12) as pool:
        found = [*pool.map(lambda seed: server.complete(prompt="O", seed=seed, max_tokens=5), range(12))]
    assert len({made["choices"][0]["text"] for made in found}) > 6
    assert threading.active_count() < 60
    server.stop()


def test_it_answers_while_the_model_is_opened_and_who_asks_early_waits(start, byte_checkpoint, local, monkeypatch):
    disk, read = threading.Event(), served_model.read_model

    def read_slowly(path):
        assert disk.wait(30)
        return read(path)

    monkeypatch.setattr(served_model, "read_model", read_slowly)
    server = start(byte_checkpoint, patient=False)
    early = server.client.get("/health")
    assert (early.status_code, early.json()) == (503, {"status": "loading"})
    assert server.client.get("/").status_code == server.client.get("/v1/models").status_code == 200
    with ThreadPoolExecutor(2) as pool:
        asked = pool.submit(server.complete, prompt="Thou", max_tokens=5, seed=1)
        settings = pool.submit(server.client.get, "/settings")
        time.sleep(0.1)
        assert not (asked.done() or settings.done())
        disk.set()
        assert asked.result()["choices"][0]["text"] == local.generate("Thou", max_new_tokens=5, seed=1)
        assert settings.result().status_code == 200 and server.client.get("/health").status_code == 200
    server.stop()


def test_a_model_that_cannot_be_opened_is_said(start, tmp_path):
    (tmp_path / "bad.ckpt").write_bytes(b"no checkpoint")
    server = start(tmp_path / "bad.ckpt")
    assert "bad.ckpt" in server.refused(503, prompt="a")
    server.stop()
