"""A text written in turns is the text that generating writes behind all that stands there, read once."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from yinggem.common.errors import UserError
from yinggem.engine.engine import engine_refusal
from yinggem.inference.completion import complete_text, prompt_ids
from yinggem.inference.conversation import Conversation
from yinggem.inference.copying import TrainingText
from yinggem.inference.draws import uniform
from yinggem.inference.filters import History, choose
from yinggem.inference.networks.opening import network_of
from yinggem.inference.networks.rows import TorchRows, rows_of
from yinggem.inference.networks.torch_network import TorchNetwork
from yinggem.inference.sampling import Sampling
from yinggem.memory.ngram_memory import NgramMemory
from yinggem.model.config import ModelConfig
from yinggem.text.tokenizer import ByteTokenizer, CharTokenizer

SAMPLING = Sampling(repetition_penalty=1.1)


class Counting(TorchRows):
    """Rows that count what they read."""

    tokens = 0

    def read(self, row: int, ids: Sequence[int]) -> np.ndarray:
        self.tokens += len(ids)
        return super().read(row, ids)


def test_the_first_turn_is_generate_and_each_turn_continues_all_that_stands_there(model):
    rows = Counting(TorchNetwork(model), 1)
    talk = Conversation(rows, ByteTokenizer(), SAMPLING, seed=3)
    first = "".join(talk.say("Thou", 20))
    assert first == complete_text(TorchNetwork(model), ByteTokenizer(), "Thou", 20, SAMPLING, 3)
    list(talk.say(" art", 15))
    ids = [*talk._ids]
    assert bytes(ids[:4]) == b"Thou" and bytes(ids[24:28]) == b" art" and len(ids) == 43
    history, before = History(ids[:28], 256, SAMPLING), ids[:28]
    for position in range(20, 35):  # by the whole text at every step
        with torch.no_grad():
            logits = model(torch.tensor([before]))[0, -1].numpy()
        before.append(choose(logits, SAMPLING, history, uniform(3, position)))
        history.add(before[-1])
    assert before == ids
    assert rows.tokens == 42  # the last was not needed yet: nothing was read twice
    talk.reset()
    assert "".join(talk.say("Thou", 20)) == first and talk.text == "Thou" + first


def test_a_text_that_is_left_goes_on_where_it_was_left(model):
    talk = Conversation(TorchRows(TorchNetwork(model), 1), ByteTokenizer(), Sampling(temperature=0))
    for _ in zip(range(5), talk.say("Thou", 50), strict=False):
        pass
    assert talk.written == 5 and len(talk._ids) == 9
    list(talk.say("", 7))
    whole = Conversation(TorchRows(TorchNetwork(model), 1), ByteTokenizer(), Sampling(temperature=0))
    list(whole.say("Thou", 12))
    assert talk._ids == whole._ids


def test_what_cannot_be_encoded_changes_nothing(model):
    letters = CharTokenizer()
    letters.fit(lambda: ["".join(map(chr, range(32, 288)))])
    talk = Conversation(TorchRows(TorchNetwork(model), 1), letters, Sampling())
    list(talk.say("ab", 3))
    before = talk.text, [*talk._ids]
    with pytest.raises(UserError, match="never saw"):
        list(talk.say("\u4e00", 3))
    assert (talk.text, talk._ids) == before


def test_turns_of_a_template_each_begin_with_the_end_of_the_one_before(model):
    tokenizer = ByteTokenizer()
    tokenizer.mark_documents("Q: {prompt}\nA: ")
    network = TorchNetwork(type(model)(type(model.config)(**vars(model.config) | {"vocab_size": 258})).eval())
    talk = Conversation(TorchRows(network, 1), tokenizer, Sampling())
    list(talk.say("one", 4))
    assert talk._ids[:-4] == prompt_ids(tokenizer, "one")
    list(talk.say("two", 4))
    assert talk._ids[:-4][-len(prompt_ids(tokenizer, "two")) :] == prompt_ids(tokenizer, "two")


@pytest.mark.skipif(engine_refusal(ModelConfig(1)) is not None, reason="there is no compiled engine")
def test_a_text_that_the_engine_draws_is_the_same(model, tmp_path):
    text = np.frombuffer(b"Thou art more lovely and more temperate. " * 9, np.uint8)
    memory = NgramMemory(text, 256, cache_dir=tmp_path)
    training = TrainingText(memory, ByteTokenizer())
    rest: dict[str, Any] = {"seed": 2, "memory": memory, "training": training, "max_copy": "9c"}
    sampling = Sampling(repetition_window=5)
    in_c = Conversation(rows_of(network_of(model)), ByteTokenizer(), sampling, **rest)
    by_torch = Conversation(TorchRows(TorchNetwork(model), 1), ByteTokenizer(), sampling, **rest)
    for talk in (in_c, by_torch):
        list(talk.say("Thou", 20))
        for _ in zip(range(5), talk.say(" art", 50), strict=False):
            pass
        list(talk.say("", 20))
    assert in_c.text == by_torch.text and in_c._ids == by_torch._ids
