"""Texts side by side are the texts alone; they join and leave between steps, and none holds up the others."""

import threading
import time
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from yinggem.common.errors import UserError
from yinggem.engine.engine import Engine
from yinggem.inference.language_model import LanguageModel
from yinggem.inference.networks.engine_network import EngineNetwork
from yinggem.inference.networks.rows import Rows, rows_of
from yinggem.inference.sampling import Sampling
from yinggem.serving.batcher import BLOCK, Batcher, ClosedError, FullError, TimeLimitError, Work
from yinggem.serving.sample import Piece, Prompt, Sample, Wish
from yinggem.text.tokenizer import ByteTokenizer

PLAIN = Sampling(repetition_penalty=1.0)


class Watched:
    """Rows that note what is done to them, and can be slowed down."""

    def __init__(self, rows: Rows, pause: float = 0.0) -> None:
        self._rows, self.pause, self.config, self.rows = rows, pause, rows.config, rows.rows
        self.calls: list[tuple[str, Sequence[int]]] = []
        self.broken: Exception | None = None

    def reset(self, row: int) -> None:
        self._rows.reset(row)

    def read(self, row: int, ids: Sequence[int]) -> np.ndarray:
        self.calls.append(("read", ids))
        time.sleep(self.pause)
        return self._rows.read(row, ids)

    def step(self, rows: Sequence[int], ids: Sequence[int]) -> np.ndarray:
        self.calls.append(("step", rows))
        time.sleep(self.pause)
        if self.broken:
            raise self.broken
        return self._rows.step(rows, ids)

    def copy(self, source: int, target: int) -> None:
        self.calls.append(("copy", [source, target]))
        self._rows.copy(source, target)

    def close(self) -> None:
        self.calls.append(("close", []))


class Heard:
    """What one request hears."""

    def __init__(self, prompt: str, seeds: Sequence[int], count: int, seconds: float = 60) -> None:
        self.texts, self.left = ["" for _ in seeds], len(seeds)
        self.error: Exception | None = None
        self.done, self.first = threading.Event(), threading.Event()
        known = Prompt([*prompt.encode()], 0, prompt, b"", np.zeros(0, np.int64))
        wish = Wish(PLAIN, count, (), False, None)
        samples = [
            Sample(k, ByteTokenizer(), known, wish, seed, None, [], [], self.hear) for k, seed in enumerate(seeds)
        ]
        self.work = Work(samples, self.fail, seconds)

    def hear(self, piece: Piece) -> None:
        self.texts[piece.index] += piece.text
        self.left -= bool(piece.finish_reason)
        self.first.set()
        if not self.left:
            self.done.set()

    def fail(self, error: Exception) -> None:
        self.error = error
        self.done.set()

    def wait(self) -> "Heard":
        assert self.done.wait(30)
        return self


@pytest.fixture
def engine(local: LanguageModel) -> Engine:
    assert isinstance(local.network, EngineNetwork)
    return local.network._make()


@pytest.mark.slow
@settings(max_examples=8, deadline=None)
@given(
    requests=st.lists(
        st.tuples(st.sampled_from(["O", "Thou art", "x" * 130]), st.integers(1, 4), st.integers(1, 30)),
        min_size=1,
        max_size=8,
    ),
    count=st.integers(1, 5),
)
def test_every_text_is_that_of_generating_it_alone(local, requests, count):
    batcher = Batcher(local.network._make(), count, 100)
    heard = [Heard(prompt, range(n), length) for prompt, n, length in requests]
    for one in heard:
        batcher.submit(one.work)
    for one, (prompt, n, length) in zip(heard, requests, strict=True):
        alone = [
            local.generate(prompt, max_new_tokens=length, seed=k, memory=0, repetition_penalty=1) for k in range(n)
        ]
        assert one.wait().texts == alone and one.error is None
    batcher.close(wait=True)
    assert batcher.busy == batcher.waiting == 0


def test_a_long_prompt_is_read_in_blocks_between_the_steps_of_others(engine):
    watched = Watched(engine)
    batcher = Batcher(watched, 4, 10)
    short, long = Heard("O", [0], 400), Heard("y" * 10 * BLOCK, [0], 5)
    batcher.submit(short.work)
    short.first.wait(30)
    batcher.submit(long.work)
    long.wait()
    kinds = [kind for kind, ids in watched.calls]
    reads = [place for place, (kind, ids) in enumerate(watched.calls) if kind == "read" and len(ids) > 1]
    assert [len(watched.calls[place][1]) for place in reads] == [BLOCK] * 10
    assert all(kinds[place + 1] == "step" for place in reads)
    short.work.end()
    batcher.close(wait=True)
    assert watched.calls[-1][0] == "close"


def test_samples_of_one_prompt_read_it_once(engine):
    watched = Watched(engine)
    batcher = Batcher(watched, 8, 10)
    batcher.submit(Heard("z" * 100, range(6), 5).work)
    batcher.close(wait=True)
    assert sum(len(ids) for kind, ids in watched.calls if kind == "read") == 100
    assert sum(kind == "copy" for kind, _ in watched.calls) == 5
    assert max(len(rows) for kind, rows in watched.calls if kind == "step") == 6


@pytest.mark.parametrize("prompt", ["O", "y" * 100 * BLOCK])
def test_who_goes_away_ends_the_work_at_the_next_token_or_block(engine, prompt):
    watched = Watched(engine, pause=0.002)
    batcher = Batcher(watched, 1, 10)
    gone, other = Heard(prompt, [0], 500), Heard("O", [0], 3)
    batcher.submit(gone.work)
    batcher.submit(other.work)
    while len(watched.calls) < 5:
        time.sleep(0.001)
    gone.work.end()
    before = len(watched.calls)
    other.wait()
    assert len(watched.calls) <= before + 1 + 1 + 3 and other.error is None
    batcher.close()


def test_a_request_of_many_samples_leaves_rows_to_others(engine):
    batcher = Batcher(Watched(engine, pause=0.001), 2, 10)
    many, one = Heard("O", range(40), 20), Heard("O", [0], 20)
    batcher.submit(many.work)
    many.first.wait(30)
    batcher.submit(one.work)
    one.wait()
    assert many.left > 20
    many.work.end()
    batcher.close()


def test_too_many_requests_are_refused_and_none_that_was_taken_is_lost(engine):
    watched = Watched(engine, pause=0.005)
    batcher = Batcher(watched, 1, 2)
    taken = []
    with pytest.raises(FullError, match="wait already"):
        for _ in range(5):
            taken.append(Heard("O", [0], 10))
            batcher.submit(taken[-1].work)
    assert len(taken) in (4, 5)  # one is refused; one may have its row already
    batcher.close()
    with pytest.raises(ClosedError):
        batcher.submit(Heard("O", [0], 1).work)
    assert all(one.wait().error is None for one in taken[:-1])


def test_a_request_that_takes_too_long_is_told_so_and_a_broken_model_too(engine):
    watched = Watched(engine, pause=0.01)
    batcher = Batcher(watched, 2, 10)
    late = Heard("O", [0], 500, seconds=0.05)
    batcher.submit(late.work)
    assert isinstance(late.wait().error, TimeLimitError) and "0.05 s" in str(late.error)
    watched.broken = UserError("It broke.")
    both = [Heard("O", [0], 9), Heard("a", [0], 9)]
    for one in both:
        batcher.submit(one.work)
    assert [str(one.wait().error) for one in both] == ["It broke."] * 2
    watched.broken = None
    fine = Heard("O", [0], 9)
    batcher.submit(fine.work)
    assert fine.wait().error is None and batcher.busy == 0
    batcher.close()


def test_rows_of_a_network_that_is_taken_are_an_engine(local):
    assert isinstance(rows_of(EngineNetwork(local.config, local.network._make)), Engine)
