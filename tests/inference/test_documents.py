"""Documents in generation: it begins where one begins, ends where the model ends one, and no penalty forbids that."""

import json
from typing import Any

import numpy as np
import pytest
import torch

import yinggem
from yinggem.commands import generate as command
from yinggem.inference.checkpoint import save_model
from yinggem.inference.completion import BETWEEN, Completion, advance, complete, prompt_ids
from yinggem.inference.evaluation import evaluate
from yinggem.inference.filters import History
from yinggem.inference.networks.opening import network_of
from yinggem.inference.networks.torch_network import TorchNetwork
from yinggem.inference.sampling import Sampling
from yinggem.model.config import ModelConfig
from yinggem.model.transformer import Transformer
from yinggem.text.tokenizer import ByteTokenizer

END, TURN = 256, 257
SHAPE: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
GREEDY = Sampling(temperature=0.0, repetition_penalty=1.0)


@pytest.fixture
def tokenizer():
    made = ByteTokenizer()
    made.mark_documents()
    return made


def chain(vocab_size: int = 257) -> Transformer:
    """A network whose next id depends on the last alone: a document is "ab" after its beginning, and "b" after an a."""
    model = Transformer(ModelConfig(vocab_size, 16, 1, 2, bias=False, intermediate_size=16)).eval()
    follows = {END: ord("a"), ord("a"): ord("b"), ord("b"): END, TURN: ord("a")}
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.norm.weight.fill_(1)
        for place, (before, after) in enumerate((k, v) for k, v in follows.items() if k < vocab_size):
            model.embedding.weight[before, place] = 1
            model.head.weight[after, place] = 9
    return model


@pytest.fixture
def place(tmp_path, tokenizer):
    save_model(tmp_path / "a.ckpt", chain(), tokenizer)
    return str(tmp_path / "a.ckpt")


def text_of(model, tokenizer, prompt="", tokens=12, **options) -> Completion:
    *_, (_, _, sample) = complete(TorchNetwork(model, "test"), tokenizer, prompt, tokens, GREEDY, [0], **options)
    return sample


def test_it_begins_with_a_document_and_ends_with_it(tokenizer):
    sample = text_of(chain(), tokenizer)
    assert (sample.text, sample.finish_reason, sample.tokens) == ("ab", "end", [*b"ab", END])
    assert text_of(chain(), tokenizer, "xa").text == "b"
    assert text_of(chain(), tokenizer, tokens=2).finish_reason == "length"


def test_it_goes_on_where_it_is_told_to(tokenizer):
    sample = text_of(chain(), tokenizer, tokens=7, ignore_end=True)
    assert (sample.text, sample.finish_reason) == (BETWEEN.join(["ab", "ab", "a"]), "length")
    assert text_of(chain(), tokenizer, stops=["\n"], ignore_end=True).finish_reason == "stop"


def test_the_end_gives_up_what_was_held_back(tokenizer):
    sample = Completion(tokenizer, 0, ["stop"])
    pieces = [sample.push(token) for token in [*b"so st", END]]
    assert "".join(pieces[:-1]) == "so " and pieces[-1] == "st"  # which might have become the stop string
    assert (sample.text, sample.finish_reason) == ("so st", "end")
    broken = Completion(tokenizer, 0, [])
    broken.push("é".encode()[0])
    assert broken.push(END) == broken.text == "\ufffd"


def test_samples_side_by_side_end_on_their_own(tokenizer):
    samples = [Completion(tokenizer, seed, []) for seed in range(2)]
    list(advance(samples, iter([[97, END], [98, 98], [END, 98], [99, 99]])))
    assert [(sample.text, sample.finish_reason) for sample in samples] == [("ab", "end"), ("", "end")]


def test_a_tokenizer_without_documents_starts_as_ever():
    assert prompt_ids(ByteTokenizer(), "") == [10] and prompt_ids(ByteTokenizer(), "ab") == [97, 98]


def test_a_prompt_is_put_into_its_template(tokenizer):
    tokenizer.mark_documents("Q: {prompt}\nA: ")
    assert prompt_ids(tokenizer, "1+1") == [END, *b"Q: 1+1\nA: ", TURN]
    assert text_of(chain(258), tokenizer, "1+1").text == "ab"


def test_no_penalty_falls_on_the_end():
    logits = np.full(257, 4, np.float32)
    for window in (None, 2):
        sampling = Sampling(repetition_penalty=2.0, repetition_window=window)
        spared = History([END, 97, 98], 257, sampling, END).penalized(logits, 2.0)
        assert spared[END] == 4 and (spared[97:99] == 2).all()
        assert History([END, 97, 98], 257, sampling).penalized(logits, 2.0)[END] == (2 if window is None else 4)


@pytest.mark.parametrize("penalty", [1.0, 1.5])
def test_whichever_engine_draws_a_document_ends_alike(tokenizer, penalty):
    torch.manual_seed(0)  # of which the first sample has an end
    model = Transformer(ModelConfig(257, initializer_range=0.5, **SHAPE)).eval()
    sampling = Sampling(repetition_penalty=penalty)
    ends = []
    for network in (network_of(model), TorchNetwork(model, "test")):
        *_, (_, _, one), (_, _, other) = complete(network, tokenizer, "a", 300, sampling, [0, 1], ignore_end=True)
        ends.append([(sample.tokens, sample.text) for sample in (one, other)])
    assert ends[0] == ends[1] and END in ends[0][0][0]


def test_the_command_ends_by_itself(place, capsys):
    base = ["--checkpoint", place, "--temperature", "0", "--device", "cpu", "--max-new-tokens", "5"]
    command.main([*base, "--json"])
    record = json.loads(capsys.readouterr().out)
    assert (record["text"], record["finish_reason"]) == ("ab", "end")
    command.main([*base, "--prompt", "xa", "--ignore-end"])
    assert capsys.readouterr().out == f"xab{BETWEEN}ab\n"


def test_interactive_answers_end_with_the_turn(tmp_path, tokenizer, capsys, monkeypatch):
    tokenizer.mark_documents("{prompt}?")
    save_model(tmp_path / "b.ckpt", chain(258), tokenizer)
    lines = iter(["one", "two"])

    def typed(prompt: str) -> str:
        try:
            return next(lines)
        except StopIteration:
            raise EOFError from None

    monkeypatch.setattr("builtins.input", typed)
    command.main(["--checkpoint", str(tmp_path / "b.ckpt"), "--temperature", "0", "--device", "cpu", "--interactive"])
    assert capsys.readouterr().out == "ab\nab\n\n"


def test_a_score_counts_the_end_and_gives_it_no_bytes(tokenizer, tmp_path):
    torch.manual_seed(0)
    model = Transformer(ModelConfig(257, initializer_range=0.5, **SHAPE)).eval()
    save_model(tmp_path / "c.ckpt", model, tokenizer, context_length=4)
    score = yinggem.load(tmp_path / "c.ckpt", device="cpu").score("a poem")
    ids = torch.tensor([END, *b"a poem", END]).numpy()
    found = evaluate(model, ids, tokenizer.token_byte_lengths, 4)
    assert found.bytes == 6 and found.tokens == 7 == len(score.tokens) and score.tokens[-1].text == ""
    assert score.nats == pytest.approx(found.nats) and score.bits_per_byte == pytest.approx(found.bits_per_byte)
