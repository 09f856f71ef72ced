"""Windows: which tokens are predicted, in which order, and where a loader continues."""

import itertools
import multiprocessing
import os
import signal

import numpy as np
import pytest
import torch

from yinggem.common.errors import UserError
from yinggem.text.tokenizer import ByteTokenizer
from yinggem.text.tokens.windows import training_windows
from yinggem.training.datamodule import TextDataModule
from yinggem.training.loaders import EvaluationBatches, TrainingBatches, TrainingLoader, WindowLoader


@pytest.mark.parametrize("tokens", [2, 3, 16, 17, 18, 33, 100, 1001])
@pytest.mark.parametrize("length", [1, 2, 16, 50])
@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_evaluation_predicts_every_token_after_the_first_exactly_once(tokens, length, ranks):
    seen = np.zeros(tokens, int)
    shares = [EvaluationBatches(tokens, length, 4, rank, ranks) for rank in range(ranks)]
    for share in shares:
        for inputs, targets in WindowLoader(np.arange(tokens), share):
            assert (targets == inputs + 1).all()
            np.add.at(seen, targets.numpy().ravel(), 1)
    assert seen[0] == 0 and (seen[1:] == 1).all()
    assert len({len(share) for share in shares}) == 1, "ranks must take the same number of steps"


@pytest.mark.parametrize("ranks", [2, 3])
def test_ranks_together_see_the_windows_of_one_process_with_the_same_global_batch(ranks):
    alone = list(TrainingBatches(1000, 8, 6, seed=3, rank=0, ranks=1))
    shares = [list(TrainingBatches(1000, 8, 6 // ranks, seed=3, rank=rank, ranks=ranks)) for rank in range(ranks)]
    for batch, *parts in zip(alone, *shares, strict=True):
        assert batch == [window for part in parts for window in part]


@pytest.mark.parametrize(("tokens", "batch_size", "ranks"), [(1000, 6, 1), (1000, 7, 3), (30, 8, 1), (30, 8, 2)])
def test_an_epoch_holds_every_window_and_its_batches_have_one_shape(tokens, batch_size, ranks):
    shares = [list(TrainingBatches(tokens, 8, batch_size, 3, rank, ranks)) for rank in range(ranks)]
    seen = [start for share in shares for batch in share for start, _ in batch]
    assert set(seen) == set(training_windows(tokens, 8, 3, 0).tolist())
    assert len({len(batch) for share in shares for batch in share}) == 1
    assert max(map(seen.count, seen)) <= 2
    assert {len(share) for share in shares} == {len(TrainingBatches(tokens, 8, batch_size, 3, 0, ranks))}


def batches_of(loader):
    return [inputs.clone() for inputs, _ in loader]


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_continues_after_any_batch(workers):
    def loader():
        return TrainingLoader(np.arange(200), TrainingBatches(200, 8, 4, 7, 0, 1), num_workers=workers)

    straight = loader()
    straight.batches.set_epoch(3)
    whole = batches_of(straight)
    for stop in range(len(whole) + 1):
        first = loader()
        first.batches.set_epoch(3)
        iterator = iter(first)
        for _ in range(stop):
            next(iterator)
        state = first.state_dict() if stop else {"epoch": 3, "windows": 0}
        second = loader()
        second.load_state_dict(state)
        iterator = iter(second)
        second.batches.set_epoch(3)  # as Lightning does, after it asked for the iterator
        rest = [inputs for inputs, _ in iterator]
        assert len(rest) == len(whole) - stop
        assert all(torch.equal(a, b) for a, b in zip(rest, whole[stop:], strict=True))
        second.batches.set_epoch(4)
        assert len(batches_of(second)) == len(whole), "the next epoch starts at its beginning"


@pytest.mark.slow
@pytest.mark.parametrize("begun", sorted({"fork", "forkserver"} & {*multiprocessing.get_all_start_methods()}))
def test_processes_that_load_data_work_on_when_a_terminal_asks_all_to_stop(tmp_path, begun):
    (tmp_path / "own.txt").write_text("All the world's a stage. " * 200)

    def loader_of(workers: int) -> WindowLoader:
        path, cache = str(tmp_path / "own.txt"), str(tmp_path / "cache")
        data = TextDataModule(ByteTokenizer(), "text", path, 8, 4, cache_dir=cache, num_workers=workers)
        return data.val_dataloader()

    loader = loader_of(2)
    loader.multiprocessing_context = begun
    before = multiprocessing.active_children()
    iterator = iter(loader)
    seen = [next(iterator)[0].clone() for _ in range(2)]  # one from each: both have begun
    for process in {*multiprocessing.active_children()} - {*before}:
        assert process.pid
        os.kill(process.pid, signal.SIGINT)
    seen += [inputs.clone() for inputs, _ in iterator]
    assert all(torch.equal(one, other) for one, other in zip(seen, batches_of(loader_of(0)), strict=True))


@pytest.mark.parametrize(("before", "after"), [((4, 1), (6, 1)), ((4, 2), (8, 1)), ((3, 1), (1, 3)), ((4, 1), (99, 1))])
@pytest.mark.parametrize("done", [0, 1, 3])
def test_batches_of_another_size_or_on_other_ranks_leave_out_no_window_and_repeat_none(before, after, done):
    """All windows of the epoch, in its order; only the last batch is filled up."""

    def share(rank, size, ranks):
        return TrainingLoader(np.arange(250), TrainingBatches(250, 8, size, 7, rank, ranks))

    def starts(batches):
        return [int(start) for batch in zip(*batches, strict=True) for inputs, _ in batch for start in inputs[:, 0]]

    first = [share(rank, *before) for rank in range(before[1])]
    seen = starts([list(itertools.islice(loader, done)) for loader in first])
    state = first[0].state_dict() if done else {"epoch": 0, "windows": 0}
    second = [share(rank, *after) for rank in range(after[1])]
    for loader in second:
        loader.load_state_dict(state)
    left = [list(loader) for loader in second]
    assert {len(batches) for batches in left} == {len(second[0]) - second[0].batches_done}
    seen += starts(left)
    order = training_windows(250, 8, 7, 0).tolist()
    assert seen[: len(order)] == order and len(seen) - len(order) < after[0] * after[1]


def test_a_position_of_version_0_1_0_counts_batches():
    loader = TrainingLoader(np.arange(200), TrainingBatches(200, 8, 4, 7, 0, 1))
    loader.load_state_dict({"epoch": 0, "position": 2})
    assert loader.state_dict() == {"epoch": 0, "windows": 8} and loader.batches_done == 2


def test_a_text_shorter_than_one_window_is_refused(tmp_path):
    (tmp_path / "short.txt").write_text("To be, or not to be")
    data = TextDataModule(
        ByteTokenizer(), "text", str(tmp_path / "short.txt"), context_length=64, cache_dir=str(tmp_path)
    )
    with pytest.raises(UserError, match=r"shorter than one window of data\.context_length=64"):
        data.setup()


def test_longer_windows_of_evaluation_predict_the_same_tokens(tmp_path):
    (tmp_path / "text.txt").write_text("To be, or not to be, that is the question.\n" * 40)
    short, long = (
        TextDataModule(
            ByteTokenizer(), "text", str(tmp_path / "text.txt"), 16, cache_dir=str(tmp_path), eval_context_length=length
        )
        for length in (None, 50)
    )
    targets = [torch.cat([y.flatten() for _, y in data.val_dataloader()]) for data in (short, long)]
    assert short.split is not None
    assert torch.equal(*targets) and targets[0].tolist() == list(short.split.val[1:])
    assert next(iter(long.val_dataloader()))[0].size(1) == 50 and next(iter(long.train_dataloader()))[0].size(1) == 16


@pytest.mark.parametrize(
    "option",
    [
        {"context_length": 0},
        {"eval_context_length": 0},
        {"batch_size": 0},
        {"seed": -1},
        {"batch_size": "8"},
        {"path": 5},
        {"cache_dir": 1.5},
    ],
)
def test_options_out_of_range_are_named(option):
    with pytest.raises(UserError, match=f"data.{next(iter(option))}"):
        TextDataModule(ByteTokenizer(), "shakespeare", **option)
