"""yinggem.load(): the same text as `yinggem generate`, the same figures as `yinggem evaluate`."""

import itertools
import json
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import yinggem
from yinggem.commands import generate
from yinggem.common.errors import UserError
from yinggem.inference.checkpoint import load_model, save_model
from yinggem.inference.evaluation import evaluate
from yinggem.inference.language_model import LanguageModel
from yinggem.model.config import ModelConfig
from yinggem.model.transformer import Transformer
from yinggem.text.tokenizer import BPETokenizer, ByteTokenizer, CharTokenizer, GPT2Tokenizer, Tokenizer

CONTEXT = 24
SAMPLE = "the quick brown fox jumps over the lazy dog; the dog, it seems, does not mind. " * 3


def tokenizer_of(name: str) -> Tokenizer:
    kinds: dict[str, Callable[[], Tokenizer]] = {"byte": ByteTokenizer, "char": CharTokenizer, "gpt2": GPT2Tokenizer}
    tokenizer = kinds.get(name, lambda: BPETokenizer(270))()
    tokenizer.fit(lambda: [SAMPLE])
    return tokenizer


@pytest.fixture(scope="module", params=["byte", "char", "bpe"])
def checkpoint(request, tmp_path_factory):
    tokenizer = tokenizer_of(request.param)
    torch.manual_seed(0)
    config = ModelConfig(tokenizer.vocab_size, 16, 2, 4, attention_window=8)
    path = tmp_path_factory.mktemp(request.param) / "a.ckpt"
    save_model(path, Transformer(config), tokenizer, context_length=CONTEXT)
    return path


@pytest.fixture(scope="module")
def language_model(checkpoint) -> LanguageModel:
    return yinggem.load(checkpoint, device="cpu")


@pytest.fixture(scope="module")
def model(checkpoint) -> Transformer:
    return load_model(checkpoint)[0]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"seed": 7, "temperature": 0.5, "top_k": 5, "top_p": 1.0},
        {"temperature": 0.0, "repetition_penalty": 1.3, "repetition_window": 4},
        {"min_p": 0.1, "typical_p": 0.9, "no_repeat_ngram_size": 3, "stop": ["e", " t"]},
    ],
)
def test_the_text_is_that_of_the_command(checkpoint, language_model, options, capsys):
    words = ["--checkpoint", str(checkpoint), "--prompt", "the dog", "--max-new-tokens", "40", "--json", "--device=cpu"]
    for name, value in options.items():
        for one in value if isinstance(value, list) else [value]:
            words.append(f"--{name.replace('_', '-')}={one}")
    generate.main(words)
    expected = json.loads(capsys.readouterr().out)["text"]
    assert language_model.generate("the dog", max_new_tokens=40, **options) == expected
    assert "".join(language_model.stream("the dog", max_new_tokens=40, **options)) == expected


def test_a_stream_gives_its_first_piece_before_the_rest_is_made(language_model):
    assert len(list(itertools.islice(language_model.stream("the", max_new_tokens=10**8), 3))) == 3


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(alphabet=sorted(set(SAMPLE)), min_size=2, max_size=120).filter(lambda text: len(text.strip()) > 1))
def test_a_score_is_the_evaluation_of_the_text(language_model, model, text):
    tokenizer = language_model.tokenizer
    ids = tokenizer.encode_array(text)
    if len(ids) < 2:
        return
    expected = evaluate(model, ids, tokenizer.token_byte_lengths, CONTEXT, batch_size=3)
    score = language_model.score(text)
    assert math.isclose(score.nats, expected.nats, rel_tol=1e-5)
    assert math.isclose(score.bits_per_byte, expected.bits_per_byte, rel_tol=1e-5)
    assert sum(nats for _, nats in score.tokens) == score.nats and len(score.tokens) == expected.tokens
    assert text.endswith("".join(piece for piece, _ in score.tokens))


def test_the_nats_of_a_token_are_those_of_plain_logits(language_model, model):
    ids = language_model.tokenizer.encode_array(SAMPLE)[: CONTEXT + 1].astype(np.int64)
    with torch.no_grad():
        logits = model(torch.from_numpy(ids[None, :-1]))[0].double()
    expected = [-float(row[token] - row.logsumexp(0)) for row, token in zip(logits, ids[1:], strict=True)]
    found = [nats for _, nats in language_model.score(language_model.tokenizer.decode(ids)).tokens]
    assert found == pytest.approx(expected, rel=1e-5)


def test_what_cannot_be_scored_or_generated_is_one_sentence(language_model):
    for attempt in (
        lambda: language_model.score(""),
        lambda: language_model.generate("x" * 3, temperature=-1.0),
        lambda: language_model.generate("the", stop="dog"),
        lambda: language_model.generate("the", stop=[""]),
        lambda: language_model.generate("the", max_new_tokens=0),
    ):
        with pytest.raises(UserError):
            attempt()
