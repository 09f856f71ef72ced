"""What is answered is what generating and scoring without a server say, in the form of OpenAI's protocol."""

import json
import math
from typing import Any

import pytest
from loopback import TEXT, write_checkpoint

import yinggem
from yinggem.text.tokenizer import ByteTokenizer, CharTokenizer

PROMPT = "Thou art"


def chunks_of(response) -> list[dict]:
    """The events of a stream, which ends as it has to."""
    events = [line for line in response.text.split("\n") if line]
    assert all(line.startswith("data: ") for line in events) and events[-1] == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in events[:-1]]


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"temperature": 0},
        {"temperature": 1.3, "top_p": 0.95, "repetition_penalty": 1.2, "memory": 0},
        {"top_k": 40, "typical_p": 0.9, "no_repeat_ngram_size": 2, "max_copy": "6c"},
        {"min_p": 0.02, "memory": 0.5, "generated": [[0, 4]]},
        {"stop": ["e", "\n"]},
    ],
)
def test_a_text_is_that_of_generate_with_the_same_seed_streamed_or_not(server, local, how):
    stop, settings = how.get("stop", []), {name: value for name, value in how.items() if name != "stop"}
    expected = local.generate(PROMPT, max_new_tokens=40, seed=7, stop=stop, **settings)
    whole = server.complete(prompt=PROMPT, max_tokens=40, seed=7, **how)
    assert whole["choices"][0]["text"] == expected
    assert whole["choices"][0]["finish_reason"] in ("length", "stop", "content_filter")
    chunks = chunks_of(server.post(prompt=PROMPT, max_tokens=40, seed=7, stream=True, **how))
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == expected
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert chunks[-1]["choices"][0]["finish_reason"] == whole["choices"][0]["finish_reason"]


def test_prompts_of_every_kind_in_prompt_major_order_with_seeds_from_one_on(server, local):
    ids = [*PROMPT.encode()]
    for prompt, texts in [
        (PROMPT, [PROMPT]),
        ([PROMPT, "O"], [PROMPT, "O"]),
        (ids, [PROMPT]),
        ([ids, [79]], [PROMPT, "O"]),
    ]:
        made = server.complete(prompt=prompt, n=2, seed=3, max_tokens=8)
        expected = [local.generate(text, max_new_tokens=8, seed=3 + k) for text in texts for k in range(2)]
        assert [choice["text"] for choice in made["choices"]] == expected
        assert [choice["index"] for choice in made["choices"]] == [*range(2 * len(texts))]
        read = sum(len(text) for text in texts)
        drawn = 16 * len(texts)
        assert made["usage"] == {"prompt_tokens": read, "completion_tokens": drawn, "total_tokens": read + drawn}
    made = server.complete(prompt=None, seed=1, max_tokens=8)
    assert made["choices"][0]["text"] == local.generate("", max_new_tokens=8, seed=1)


def test_harmless_extras_change_nothing(server):
    plain = server.complete(prompt=PROMPT, seed=5)
    extras = {
        "logit_bias": {}, "presence_penalty": 0.0, "frequency_penalty": 0, "suffix": None, "user": "me", "n": None,
        "top_p": None, "stop": None, "stream": None, "best_of": 1, "unheard_of": None, "model": "yinggem",
    }  # fmt: skip
    assert server.complete(prompt=PROMPT, seed=5, **extras)["choices"] == plain["choices"]
    assert plain["object"] == "text_completion" and plain["model"] == "yinggem" and plain["id"].startswith("cmpl-")
    assert plain["usage"]["completion_tokens"] == 16


@pytest.mark.parametrize("stream", [False, True])
def test_echoed_log_probabilities_without_the_memory_are_those_of_the_plain_model(server, byte_checkpoint, stream):
    import torch

    from yinggem.inference.checkpoint import load_model

    text = "Thou é art"
    ids = [*text.encode()]
    with torch.no_grad():
        logs = load_model(byte_checkpoint)[0](torch.tensor([ids]))[0].double().log_softmax(-1).numpy()
    asked = {"prompt": text, "echo": True, "logprobs": 3, "max_tokens": 1, "memory": 0, "temperature": 0}
    if stream:
        pieces = [chunk["choices"][0] for chunk in chunks_of(server.post(stream=True, **asked))]
        told = {name: [one for piece in pieces for one in piece["logprobs"][name]] for name in pieces[0]["logprobs"]}
        whole = "".join(piece["text"] for piece in pieces)
    else:
        choice = server.complete(**asked)["choices"][0]
        told, whole = choice["logprobs"], choice["text"]
    assert whole.startswith(text) and len(told["tokens"]) == len(ids) + 1
    assert told["token_logprobs"][0] is None and told["top_logprobs"][0] is None
    expected = [logs[place, token] for place, token in enumerate(ids[1:])] + [logs[-1].max()]
    assert told["token_logprobs"][1:] == pytest.approx(expected, abs=1e-4)
    for place, (value, top) in enumerate(zip(told["token_logprobs"][1:], told["top_logprobs"][1:], strict=True)):
        assert max(top.values()) == pytest.approx(logs[place].max(), abs=1e-4) and 3 <= len(top) <= 4
        greedy = place + 1 == len(ids) or ids[place + 1] == logs[place].argmax()
        assert (value == max(top.values())) == greedy  # to the bit, as lm-evaluation-harness compares them
    assert told["text_offset"] == [*range(5), 5, 5, *range(6, len(text)), len(text)]
    assert told["tokens"][5:7] == ["bytes:\\xc3", "bytes:\\xa9"]


def test_echoed_log_probabilities_with_the_memory_are_those_of_evaluating(server, local):
    text = TEXT[:50]
    told = server.complete(prompt=text, echo=True, logprobs=0, max_tokens=0)["choices"][0]
    assert told["text"] == text and told["finish_reason"] == "length"
    assert -sum(told["logprobs"]["token_logprobs"][1:]) == pytest.approx(local.score(text).nats, rel=1e-5)
    network = server.complete(prompt=text, echo=True, logprobs=0, max_tokens=0, memory=0)["choices"][0]["logprobs"]
    assert sum(network["token_logprobs"][1:]) < sum(told["logprobs"]["token_logprobs"][1:])  # it helps on its own text


def test_log_probabilities_are_taken_before_every_filter_and_include_the_drawn_token(server):
    how = {"prompt": PROMPT, "seed": 2, "max_tokens": 12, "logprobs": 2}
    filtered = server.complete(top_k=1, repetition_penalty=3, max_copy="5c", **how)["choices"][0]["logprobs"]
    assert all(math.exp(value) < 1 - 1e-9 for value in filtered["token_logprobs"])  # of one token alone it would be 1
    for name, value, top in zip(filtered["tokens"], filtered["token_logprobs"], filtered["top_logprobs"], strict=True):
        assert top[name] == value and len(top) in (2, 3)


def test_offsets_find_every_token_in_the_text_and_no_character_is_halved(server):
    """A network that has learnt nothing writes broken characters; they stand as one sign each, like in generate."""
    for stream in (False, True):
        for echo in (False, True):
            how = {"prompt": [*"é".encode(), 0xC3], "seed": 4, "max_tokens": 60, "logprobs": 1, "echo": echo}
            if stream:
                pieces = [chunk["choices"][0] for chunk in chunks_of(server.post(stream=True, memory=0, **how))]
                assert all(piece["text"].encode() for piece in pieces)
            else:
                pieces = server.complete(memory=0, **how)["choices"]
            text = "".join(piece["text"] for piece in pieces)
            names = [name for piece in pieces for name in piece["logprobs"]["tokens"]]
            places = [place for piece in pieces for place in piece["logprobs"]["text_offset"]]
            assert len(names) == 60 + 3 * echo and places == sorted(places) and places[-1] < len(text)
            for name, place in zip(names, places, strict=True):
                assert name.startswith("bytes:") or text[place : place + len(name)] == name


def test_the_best_of_several_come_first(server):
    ranked = server.complete(prompt=[PROMPT, "O"], n=2, best_of=5, seed=1, max_tokens=6, logprobs=0)["choices"]
    every = server.complete(prompt=[PROMPT, "O"], n=5, seed=1, max_tokens=6, logprobs=0)["choices"]
    for prompt in range(2):
        means = [(-sum(c["logprobs"]["token_logprobs"]) / 6, c["text"]) for c in every[5 * prompt : 5 * prompt + 5]]
        assert [choice["text"] for choice in ranked[2 * prompt : 2 * prompt + 2]] == [
            text for _, text in sorted(means)[:2]
        ]
    assert [choice["index"] for choice in ranked] == [0, 1, 2, 3]


def test_usage_comes_last_where_it_is_asked_for(server):
    how = {"prompt": PROMPT, "max_tokens": 5, "stream": True, "n": 2, "seed": 0}
    assert not any("usage" in chunk for chunk in chunks_of(server.post(**how)))
    *chunks, last = chunks_of(server.post(stream_options={"include_usage": True}, **how))
    assert all(chunk["usage"] is None and len(chunk["choices"]) == 1 for chunk in chunks)
    assert last["choices"] == [] and last["usage"] == {"prompt_tokens": 8, "completion_tokens": 10, "total_tokens": 18}


def test_no_tokens_can_be_asked_for(server):
    for echo, text in ((False, ""), (True, PROMPT)):
        choice = server.complete(prompt=PROMPT, max_tokens=0, echo=echo)["choices"][0]
        assert (choice["text"], choice["finish_reason"], choice["logprobs"]) == (text, "length", None)


@pytest.mark.parametrize(
    "bad, word",
    [
        ({"prompt": 5}, "prompt"), ({"prompt": []}, "prompt"), ({"prompt": [[]]}, "prompt"),
        ({"prompt": ["a", 1]}, "prompt"), ({"prompt": [True]}, "prompt"), ({"prompt": [999]}, "999"),
        ({"prompt": "\ud800"}, "surrogate"), ({"prompt": "x" * 3000}, "3000 tokens"),
        ({"max_tokens": -1}, "max_tokens"), ({"max_tokens": 501}, "max_tokens"), ({"max_tokens": 1.5}, "max_tokens"),
        ({"max_tokens": "5"}, "max_tokens"), ({"n": 0}, "n must"), ({"n": 10**6}, "n must"),
        ({"n": 2, "best_of": 1}, "best_of"), ({"best_of": 2, "stream": True}, "best_of"),
        ({"logprobs": 21}, "logprobs"), ({"logprobs": True}, "logprobs"), ({"temperature": -1}, "temperature"),
        ({"temperature": "hot"}, "temperature"), ({"top_p": 2}, "top_p"), ({"seed": 1.5}, "seed"),
        ({"seed": 10**30}, "seed"), ({"stop": ""}, "stop"), ({"stop": [1]}, "stop"), ({"echo": 1}, "echo"),
        ({"stream": "yes"}, "stream"), ({"stream_options": 1}, "stream_options"),
        ({"logit_bias": {"5": 1}}, "logit_bias"), ({"presence_penalty": 1}, "presence_penalty"),
        ({"suffix": "x"}, "suffix"), ({"temprature": 1}, "temperature"), ({"memory": 3}, "memory"),
        ({"memory": "x"}, "memory"), ({"max_copy": "8w"}, "max_copy"), ({"generated": [[0, 99]]}, "generated"),
        ({"generated": [5]}, "generated"), ({"generated": [[0, 1]], "prompt": [65]}, "generated"),
        ({"model": 5}, "model"), ({"n": 128, "prompt": ["a"] * 9}, "1152 samples"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(server, bad, word):
    response = server.client.post(
        "/v1/completions", content=json.dumps({"prompt": "a"} | bad), headers={"Content-Type": "application/json"}
    )
    error = response.json()["error"]
    assert response.status_code == 400 and word in error["message"] and error["type"] == "invalid_request_error"
    assert error["message"].endswith((".", "?")) and "\n" not in error["message"]


def test_a_character_that_the_tokenizer_lacks_is_named_and_without_a_memory_none_can_be_asked_for(start, tmp_path):
    path = write_checkpoint(tmp_path / "char.ckpt", CharTokenizer(), memory=False)
    server = start(path)
    assert "'%'" in server.refused(prompt="100 %")
    assert "no memory" in server.refused(memory=0.5) and "training text" in server.refused(max_copy=3)
    expected = yinggem.load(path, device="cpu").generate("Thou", max_new_tokens=9, seed=2)
    assert server.complete(prompt="Thou", max_tokens=9, seed=2, memory=0)["choices"][0]["text"] == expected


def test_a_model_of_documents_ends_where_it_would_and_begins_each_prompt_as_one(start, tmp_path):
    tokenizer = ByteTokenizer()
    tokenizer.mark_documents()
    path = write_checkpoint(tmp_path / "documents.ckpt", tokenizer, memory=False)
    server, here = start(path), yinggem.load(path, device="cpu")
    settings: dict[str, Any] = {"temperature": 1.5, "top_p": 1.0, "repetition_penalty": 1.2}
    reasons = set()
    for seed in range(8):
        choice = server.complete(prompt="Thou", seed=seed, max_tokens=400, **settings)["choices"][0]
        reasons.add(choice["finish_reason"])
        assert choice["text"] == here.generate("Thou", max_new_tokens=400, seed=seed, **settings)
    assert reasons == {"stop", "length"}
    told = server.complete(prompt="Thou", echo=True, logprobs=0, max_tokens=0)
    assert told["choices"][0]["logprobs"]["tokens"] == [*"Thou"] and told["usage"]["prompt_tokens"] == 4
    assert None not in told["choices"][0]["logprobs"]["token_logprobs"]  # the end of another document stands before
    mark = server.client.get("/tokenizer_info").json()["eos_token"]
    assert server.post("/tokenize", prompt=mark).json()["tokens"] == [tokenizer.end_id]
