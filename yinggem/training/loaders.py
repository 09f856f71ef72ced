"""Token arrays to (inputs, targets) windows, in loaders whose position can be saved and restored."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from yinggem.text.tokens.windows import Ids, Window, counted_targets, cut_windows, evaluation_batches, training_windows

Batch = tuple[Tensor, ...]  # inputs and targets, both (B, T) int64; of pairs also (B, T) bool, which targets count


class Windows(Dataset[Batch]):
    """Batches of windows by their (start, length); all windows of a batch have the same length."""

    def __init__(self, ids: Ids) -> None:
        self.ids = ids

    def __getitems__(self, windows: list[Window]) -> Batch:
        block = cut_windows(self.ids, windows)
        counted, rows = counted_targets(self.ids, windows, block), torch.from_numpy(block)
        return rows[:, :-1], rows[:, 1:], *([] if counted is None else [torch.from_numpy(counted)])


class TrainingBatches(Sampler[list[Window]]):
    """One rank's batches of an epoch, from a position on.

    The global batch g is windows g*R*B .. (g+1)*R*B of the epoch's order for R ranks with B windows each: the same
    windows whatever the number of ranks. The last batch is filled up with the first windows of the epoch, so that all
    have one shape; an epoch smaller than a batch is one smaller batch.

    The position is a number of windows, of all ranks together. So a run may go on with batches of another size, or on
    another number of ranks: no window of the epoch is left out, and none comes twice except to fill the last batch.
    """

    def __init__(
        self, tokens: int, length: int, batch_size: int, seed: int, rank: int, ranks: int, repeat: bool = False
    ) -> None:
        self.tokens, self.length, self.batch_size, self.seed = tokens, length, batch_size, seed
        self.rank, self.ranks, self.repeat = rank, ranks, repeat  # repeat: the same windows in every epoch
        self.epoch = self.position = 0
        self.windows = (tokens - 1) // length  # of an epoch
        self.step = min(batch_size, -(-self.windows // ranks)) * ranks  # windows of a batch, of all ranks together

    def __len__(self) -> int:
        return -(-self.windows // self.step)

    @property
    def batches_done(self) -> int:
        """Batches of an epoch minus those that are left from the position on."""
        return len(self) - self._left

    @property
    def _left(self) -> int:
        return -(-max(0, self.windows - self.position) // self.step)

    @property
    def sampler(self) -> "TrainingBatches":
        """Lightning looks for `set_epoch` in `loader.batch_sampler.sampler`."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Lightning calls this before every epoch, also before one that is resumed."""
        if epoch != self.epoch:
            self.epoch, self.position = epoch, 0

    def __iter__(self) -> Iterator[list[Window]]:
        starts = training_windows(self.tokens, self.length, self.seed, 0 if self.repeat else self.epoch)
        end = self.position + self._left * self.step
        together = np.resize(starts, end)[self.position :].reshape(self._left, self.ranks, self.step // self.ranks)
        for batch in together[:, self.rank]:
            yield [(int(start), self.length) for start in batch]


class EvaluationBatches(Sampler[list[Window]]):
    """One rank's share of a full pass; ranks left without a batch get an empty one, for all must step together."""

    def __init__(self, tokens: int, length: int, batch_size: int, rank: int, ranks: int) -> None:
        batches = evaluation_batches(tokens, length, batch_size)
        batches += [[] for _ in range(-len(batches) % ranks)]
        self.batches = batches[rank::ranks]

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[Window]]:
        return iter(self.batches)


class WindowLoader(DataLoader[Batch]):
    """A DataLoader over a sampler of batches of windows."""

    def __init__(self, ids: Ids, batches: Sampler[list[Window]], **options: Any) -> None:
        super().__init__(Windows(ids), batch_sampler=batches, collate_fn=_unchanged, **options)
        self.batches = batches


class TrainingLoader(WindowLoader):
    """The loader of a rank's training batches, which can stop after any batch and continue with the next one.

    Lightning keeps `state_dict` in its checkpoints.
    """

    def __init__(self, ids: Ids, batches: TrainingBatches, **options: Any) -> None:
        super().__init__(ids, batches, **options)
        self.order, self.handed_out = batches, 0

    def __iter__(self) -> Any:
        """Lazily: the sampler learns its epoch between this call and the first batch."""
        self.handed_out = self.order.position
        for batch in super().__iter__():
            self.handed_out += self.order.step
            yield batch

    @property
    def batches_done(self) -> int:
        """How many batches of this size there would be before the position that was restored."""
        return self.order.batches_done

    def state_dict(self) -> dict[str, int]:
        """Epoch, and windows of it that were handed out, to all ranks together."""
        return {"epoch": self.order.epoch, "windows": min(self.handed_out, self.order.windows)}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue where `state_dict` was taken. Version 0.1.0 counted batches: they are taken to be of this size."""
        windows = state["windows"] if "windows" in state else state["position"] * self.order.step
        self.order.epoch, self.order.position = state["epoch"], min(windows, self.order.windows)
        self.handed_out = self.order.position


def _unchanged(batch: Any) -> Any:
    return batch
