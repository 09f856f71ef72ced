"""Real clients, unchanged. `make peers` runs them; what they do is here in short for every other run."""

from pathlib import Path

import numpy as np
import pytest
from loopback import CONTEXT, TEXT, Server

import yinggem
from yinggem.inference.language_model import LanguageModel
from yinggem.inference.starter import starter_path
from yinggem.text.assets import SHAKESPEARE, read_asset


def harness_rows(server: Server, text: str) -> list[list[int]]:
    """The windows of lm-evaluation-harness, each begun with the token before it; the first with a token of its own."""
    first = server.client.get("/tokenizer_info").json()["eos_token"]
    prefix, ids = (server.post("/tokenize", prompt=one).json()["tokens"] for one in (first, text))
    ids = [*prefix[:1], *ids]
    return [ids[start : start + CONTEXT + 1] for start in range(0, len(ids) - 1, CONTEXT)]


@pytest.mark.slow
@pytest.mark.parametrize("how", [{}, {"memory": 0}])
def test_what_the_harness_adds_up_is_the_score_of_its_windows(server, local, how):
    rows = harness_rows(server, TEXT[:1000])
    made = server.complete(prompt=rows, temperature=0, max_tokens=1, logprobs=1, seed=1234, echo=True, **how)
    nats = -sum(sum(choice["logprobs"]["token_logprobs"][1:-1]) for choice in made["choices"])
    assert nats == pytest.approx(sum(nats_of(np.array(row), local, not how) for row in rows), rel=1e-5)


def nats_of(row: np.ndarray, local: LanguageModel, mixed: bool) -> float:
    """Of a window, as `yinggem evaluate` adds them up."""
    nats = local.network.nats(row)
    return float((local.memory.score(row[None], nats[None])[1] if mixed and local.memory else nats).sum())


@pytest.mark.peers
def test_the_official_client_of_openai(server, local):
    openai = pytest.importorskip("openai")
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
    assert [model.id for model in client.models.list()] == ["yinggem"]
    expected = local.generate("Thou", max_new_tokens=20, seed=4)
    made = client.completions.create(model="yinggem", prompt="Thou", max_tokens=20, seed=4, logprobs=2, echo=True)
    choice = made.choices[0]
    assert choice.text == "Thou" + expected and choice.finish_reason == "length" and made.usage.completion_tokens == 20
    assert len(choice.logprobs.tokens) == len(choice.logprobs.text_offset) == 24
    parts = client.completions.create(
        model="yinggem", prompt=["Thou"], max_tokens=20, seed=4, stream=True, stream_options={"include_usage": True},
        extra_body={"repetition_penalty": 1.0, "memory": 1},
    )  # fmt: skip
    chunks = [*parts]
    assert "".join(chunk.choices[0].text for chunk in chunks[:-1]) == expected and chunks[-1].usage.prompt_tokens == 4
    for how, kind in (({"max_tokens": -1}, openai.BadRequestError), ({"model": "gpt"}, openai.NotFoundError)):
        with pytest.raises(kind) as refused:
            client.completions.create(**{"model": "yinggem", "prompt": "a"} | how)
        assert refused.value.param in ("max_tokens", "model")


@pytest.mark.peers
def test_lm_evaluation_harness_finds_the_bits_per_byte_of_evaluating(start):
    """On a text that the model was not trained on; the harness predicts the first token too, which is one of 4,000."""
    pytest.importorskip("lm_eval")
    from lm_eval.api.instance import Instance
    from lm_eval.models.openai_completions import LocalCompletionsAPI

    server, local = start(starter_path()), yinggem.load("starter", device="cpu")
    text = read_asset(SHAKESPEARE).decode()[-10_000:]
    for how in ({}, {"memory": 0}):
        model = LocalCompletionsAPI(
            base_url=f"{server.url}/v1/completions", tokenizer_backend="remote", model="yinggem",
            max_length=local.context_length, batch_size=4, num_concurrent=1,
        )  # fmt: skip
        plain = model._create_payload
        model._create_payload = lambda *args, plain=plain, how=how, **more: plain(*args, **more) | how
        request = Instance("loglikelihood_rolling", {}, (text,), 0, metadata=("", 0, 1))
        (nats,) = model.loglikelihood_rolling([request], disable_tqdm=True)
        here = LanguageModel(local.network, local.tokenizer, local.context_length, None if how else local.memory)
        assert -nats == pytest.approx(here.score(text).nats, rel=0.002)


@pytest.mark.peers
def test_llm_speaks_with_it(server, tmp_path: Path, monkeypatch):
    llm = pytest.importorskip("llm")
    monkeypatch.setenv("LLM_USER_PATH", str(tmp_path))
    (tmp_path / "extra-openai-models.yaml").write_text(
        f"- model_id: mine\n  model_name: yinggem\n  api_base: {server.url}/v1\n  completion: true\n"
    )
    answer = llm.get_model("mine").prompt("Thou", stream=True, max_tokens=12, seed=4)
    assert len(answer.text()) > 3
