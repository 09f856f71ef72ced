"""Generation that repeats no long stretch of its training text: real models, checkpoints and tokenizers."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from references import ends_in_copy, stretches_of
from running import sized

import yinggem
from yinggem.common.errors import UserError
from yinggem.inference.checkpoint import load_model, save_model
from yinggem.inference.completion import Completion, complete
from yinggem.inference.copying import TrainingText
from yinggem.inference.files.stored_model import read_model
from yinggem.inference.generation import NOTHING, generate
from yinggem.inference.networks.torch_network import TorchNetwork
from yinggem.inference.sampling import Sampling
from yinggem.memory.copies import find_copies
from yinggem.memory.ngram_memory import NgramMemory
from yinggem.memory.stretches import Length
from yinggem.model.config import ModelConfig
from yinggem.model.transformer import Transformer
from yinggem.text.tokenizer import BPETokenizer, ByteTokenizer, CharTokenizer, Tokenizer

TEXT = "a bad cab\r\nfed a bad bee; a bead fed a bad bee — décodé.\n" * 4
KINDS = {"byte": ByteTokenizer, "char": CharTokenizer, "bpe": lambda: BPETokenizer(270)}
FREE = Sampling(temperature=1.0, top_p=None, repetition_penalty=1.0)


def near_its_text(tokenizer: Tokenizer) -> Transformer:
    """A model that is sure of what came most often after the last token: it copies wherever it may."""
    torch.manual_seed(0)
    size = tokenizer.vocab_size
    model = Transformer(ModelConfig(size, 32, 1, 2, None, 16, attention_window=8, initializer_range=0.02)).eval()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    ids = torch.tensor([tokenizer.encode(TEXT)])
    for _ in range(40):
        optimizer.zero_grad()
        model.loss(ids[:, :-1], ids[:, 1:]).backward()
        optimizer.step()
    return model


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One for each tokenizer, with a memory."""
    folder, paths = tmp_path_factory.mktemp("copying"), {}
    for name, kind in KINDS.items():
        tokenizer = kind()
        tokenizer.fit(lambda: [TEXT])
        paths[name] = folder / f"{name}.ckpt"
        memory = NgramMemory(tokenizer.encode_array(TEXT), tokenizer.vocab_size)
        save_model(paths[name], near_its_text(tokenizer), tokenizer, memory)
    return paths


class CountingTokenizer(ByteTokenizer):
    """Notes how much it decodes."""

    decoded = 0

    def decode_bytes(self, ids: Any) -> bytes:
        self.decoded += len(ids)
        return super().decode_bytes(ids)


def test_the_text_is_decoded_once_however_often_it_is_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tokenizer = CountingTokenizer()
    ids = tokenizer.encode_array(TEXT)
    training = TrainingText(NgramMemory(ids, 256, cache_dir=tmp_path), tokenizer)
    next(training.chunks())  # given up: nothing is kept of it
    tokenizer.decoded = 0
    assert ["".join(training.chunks()) for _ in range(3)] == [TEXT] * 3 and tokenizer.decoded == len(ids)
    monkeypatch.setattr("yinggem.inference.copying.MOST_KEPT", 10)
    long = TrainingText(NgramMemory(ids, 256, cache_dir=tmp_path), tokenizer)
    assert ["".join(long.chunks()) for _ in range(2)] == [TEXT] * 2 and tokenizer.decoded == 3 * len(ids)


def test_where_only_the_end_of_a_text_is_counted_copies_of_all_of_it_are_found_and_forbidden(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("yinggem.memory.ngram_memory.COUNTED_TOKENS", 40)
    tokenizer, text = ByteTokenizer(), "the first words of all are counted no more " + "and these are " * 9
    memory = NgramMemory(tokenizer.encode_array(text), 256, cache_dir=tmp_path)
    training = TrainingText(memory, tokenizer)
    assert len(memory.counted) == 40
    assert find_copies("the first words of all are counted", training.chunks(), Length(5)).longest == 7
    ((step,),) = training.steps(3, ["the first words o"])
    logits = step.apply(np.zeros(256, np.float32))
    assert logits[ord("f")] == -np.inf and logits[ord("n")] == 0


class Loaded:
    """What a checkpoint holds."""

    def __init__(self, path: Path) -> None:
        self.model, self.tokenizer = load_model(path)
        self.network = TorchNetwork(self.model)
        self.training = TrainingText(read_model(path).memory, self.tokenizer)

    def samples(
        self, prompt: str, limit: str | None, seeds: list[int], sampling: Sampling = FREE, tokens: int = 40
    ) -> list[Completion]:
        steps = self.training.steps(limit, [prompt] * len(seeds))
        pieces = complete(self.network, self.tokenizer, prompt, tokens, sampling, seeds, steps=steps)
        found = {number: sample for number, _, sample in pieces}
        return [found[number] for number in range(len(seeds))]


@pytest.fixture(scope="module", params=KINDS)
def loaded(request: pytest.FixtureRequest, checkpoints: dict[str, Path]) -> Loaded:
    return Loaded(checkpoints[request.param])


def has_copy(prompt: str, output: str, length: Length) -> bool:
    """Whether any beginning of the output ends in a copy that is longer than `length`."""
    known, whole = stretches_of(TEXT, length.count + 1, length.characters), prompt + output
    ends = range(len(prompt) + 1, len(whole) + 1)
    return any(ends_in_copy(whole[:end], known, length.count + 1, length.characters) for end in ends)


@pytest.mark.slow
def test_the_training_text_is_what_the_memory_holds(loaded):
    assert "".join(loaded.training.chunks()) == TEXT


@pytest.mark.slow
@settings(max_examples=sized(5, 200), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    limit=st.sampled_from(["1", "2", "4", "3c", "8c", "20c"]),
    prompt=st.sampled_from(["", "a bad", "fed a bad bee; a be", "a bad cab\nfed", " ", "cab bead", TEXT[:50]]),
    seed=st.integers(0, 1000),
    greedy=st.booleans(),
)
def test_no_copy_that_is_too_long_ends_in_the_output(loaded, limit, prompt, seed, greedy):
    sampling = Sampling(temperature=0.0, repetition_penalty=1.0) if greedy else FREE
    seeds = [seed, seed + 1, seed + 2]
    together = loaded.samples(prompt, limit, seeds, sampling)
    for one, sample in zip(seeds, together, strict=True):
        assert not has_copy(prompt, sample.text, Length.of(limit))
        (alone,) = loaded.samples(prompt, limit, [one], sampling)
        assert alone.to_dict() == sample.to_dict()


def test_without_a_limit_the_same_models_do_copy(loaded):
    assert any(has_copy("a bad", sample.text, Length(2)) for sample in loaded.samples("a bad", None, list(range(8))))


def test_where_nothing_may_follow_one_row_ends_and_the_others_go_on(checkpoints):
    """One character at most: a row ends where it has written the one that every other follows somewhere."""
    loaded = Loaded(checkpoints["char"])
    every = "".join(token.decode() for token in loaded.tokenizer.tokens)
    pairs = "".join(f"a{second}\n" for second in every)
    memory = NgramMemory(loaded.tokenizer.encode_array(pairs), loaded.tokenizer.vocab_size)
    loaded.training = TrainingText(memory, loaded.tokenizer)
    samples = loaded.samples("b", "1c", list(range(24)), tokens=10)
    ends = {sample.finish_reason for sample in samples}
    assert ends == {"copy", "length"}
    for sample in samples:
        assert "a" not in sample.text[:-1] and (sample.finish_reason == "length" or sample.text[-1] == "a")
        assert len(sample.tokens) == 10 or sample.finish_reason == "copy"
        assert min(sample.tokens) >= 0 and loaded.tokenizer.decode(sample.tokens) == sample.text
    prompted = loaded.samples("a", "1c", [0])[0]
    assert (prompted.text, prompted.tokens, prompted.finish_reason) == ("", [], "copy")


class Forbid:
    """Forbids every id of a row once it has so many."""

    def __init__(self, after: int) -> None:
        self.after, self.seen = after, list[int]()

    def apply(self, logits: np.ndarray) -> np.ndarray:
        return np.full_like(logits, -np.inf) if len(self.seen) == self.after else logits

    def add(self, token: int) -> None:
        assert token >= 0
        self.seen.append(token)


def test_a_row_that_has_ended_stays_so_and_disturbs_no_other(checkpoints):
    network = TorchNetwork(load_model(checkpoints["byte"])[0])
    prompt, sampling = np.array([[97], [98], [99]]), Sampling(no_repeat_ngram_size=3)

    def texts(*after: int) -> list[tuple[int, ...]]:
        return [*zip(*generate(network, prompt, 12, sampling, [0, 1, 2], [[Forbid(n)] for n in after]), strict=True)]

    free, ended = texts(99, 99, 99), texts(99, 4, 99)
    assert (ended[0], ended[2]) == (free[0], free[2]) and ended[1] == (*free[1][:4], *[NOTHING] * 8)
    assert len(texts(3, 3, 3)[0]) == 4  # then nobody goes on


def test_steps_apply_in_their_order_before_the_filters(checkpoints):
    network = TorchNetwork(load_model(checkpoints["byte"])[0])

    class Only:
        def __init__(self, token: int) -> None:
            self.token = token

        def apply(self, logits: np.ndarray) -> np.ndarray:
            return np.where(np.arange(len(logits)) == self.token, np.float32(50), np.float32(-50))

        def add(self, token: int) -> None: ...

    def first(*steps: Only, **changes: Any) -> int:
        return next(iter(generate(network, np.array([[9]]), 1, Sampling(top_k=1, **changes), [0], [steps])))[0]

    assert (first(Only(7), Only(8)), first(Only(8), Only(7))) == (8, 7)
    assert first(Only(9), repetition_penalty=100.0) != 9 or first(Only(9), repetition_penalty=1.0) == 9


def test_a_rule_that_would_leave_nothing_beside_a_limit_gives_way(checkpoints):
    """Every id that the limit leaves is banned as a repetition: the row goes on, and nothing is NaN."""
    network = TorchNetwork(load_model(checkpoints["byte"])[0])

    class Two:
        def apply(self, logits: np.ndarray) -> np.ndarray:
            return np.where(np.arange(len(logits)) < 2, logits, -np.inf)

        def add(self, token: int) -> None: ...

    sampling = Sampling(no_repeat_ngram_size=1, typical_p=0.5, min_p=0.1, top_k=9)
    assert {token for (token,) in generate(network, np.array([[0, 1]]), 9, sampling, [0], [[Two()]])} <= {0, 1}


@pytest.mark.slow
def test_the_limit_of_python_programs_is_that_of_the_steps(checkpoints):
    model, loaded = yinggem.load(checkpoints["bpe"], device="cpu"), Loaded(checkpoints["bpe"])
    settings_: dict[str, Any] = {"temperature": 1.0, "top_p": None, "repetition_penalty": 1.0, "max_new_tokens": 40}
    for limit in (2, "2", "9c"):
        text = model.generate("a bad", seed=3, max_copy=limit, **settings_)
        assert not has_copy("a bad", text, Length.of(limit))
        assert text == "".join(model.stream("a bad", seed=3, max_copy=limit, **settings_))
    with pytest.raises(UserError, match="max_copy"):
        model.generate("a bad", max_copy=0)
    save_model(checkpoints["bpe"].with_name("alone.ckpt"), loaded.model, loaded.tokenizer)
    with pytest.raises(UserError, match="does not hold its training text; train a model with memory=ngram"):
        yinggem.load(checkpoints["bpe"].with_name("alone.ckpt"), device="cpu").generate("a", max_copy=3)
