"""Token arrays to (inputs, targets) windows, and loaders whose position can be saved and restored."""

import warnings
from collections.abc import Iterator
from os import PathLike
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from yinggem.common.checks import check_whole_number
from yinggem.common.errors import UserError
from yinggem.runs.processes import rank
from yinggem.text.corpus import TokenizedSplit, open_corpus, tokenize
from yinggem.text.text_record import TextRecord
from yinggem.text.tokenizer import Tokenizer
from yinggem.text.windows import Ids, Window, cut_windows, evaluation_batches, training_windows

Batch = tuple[Tensor, Tensor]  # inputs and targets, both (B, T) int64


class Windows(Dataset[Batch]):
    """Batches of windows by their (start, length); all windows of a batch have the same length."""

    def __init__(self, ids: Ids) -> None:
        self.ids = ids

    def __getitems__(self, windows: list[Window]) -> Batch:
        rows = torch.from_numpy(cut_windows(self.ids, windows))
        return rows[:, :-1], rows[:, 1:]


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


class TextDataModule(LightningDataModule):
    """A text, split and tokenized, in windows of `context_length` tokens.

    Args:
        tokenizer: fitted to the training split if it is not fitted yet.
        source, path: as `yinggem.text.corpus.open_corpus`.
        context_length: tokens per window.
        batch_size: windows per step and device.
        eval_batch_size: windows per evaluation step and device; as `batch_size` by default.
        val_fraction, split_by: as `yinggem.text.corpus.tokenize`.
        cache_dir: where token arrays are kept; the user's cache folder by default.
        seed: with the epoch it decides every training window.
        num_workers: processes that cut windows; 0 is fastest, for a window is a copy from a memory map.
        eval_context_length: tokens per window of an evaluation; as `context_length` by default. A model with an
            attention window reads on through longer ones as it does when it generates, so that fewer tokens have to be
            predicted from a short context.

    Raises:
        UserError: an option is out of range, or a split is shorter than one window.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        source: str,
        path: str | None = None,
        context_length: int = 256,
        batch_size: int = 16,
        eval_batch_size: int | None = None,
        val_fraction: float = 0.1,
        split_by: str = "characters",
        cache_dir: str | None = None,
        seed: int = 0,
        num_workers: int = 0,
        eval_context_length: int | None = None,
    ) -> None:
        super().__init__()
        eval_batch_size = batch_size if eval_batch_size is None else eval_batch_size
        eval_context_length = context_length if eval_context_length is None else eval_context_length
        for name, value, least in (
            ("context_length", context_length, 1),
            ("batch_size", batch_size, 1),
            ("eval_context_length", eval_context_length, 1),
            ("eval_batch_size", eval_batch_size, 1),
            ("num_workers", num_workers, 0),
            ("seed", seed, 0),
        ):
            check_whole_number(f"data.{name}", value, least, 1 << 31)
        for name, text in (("path", path), ("cache_dir", cache_dir)):
            if not isinstance(text, str | PathLike | None):
                raise UserError(f"data.{name} must be a path, or null, not {str(text)[:80]!r}.")
        self.tokenizer, self.source, self.path, self.cache_dir = tokenizer, source, path, cache_dir
        self.context_length, self.batch_size = context_length, batch_size
        self.eval_context_length, self.eval_batch_size = eval_context_length, eval_batch_size
        self.val_fraction, self.split_by, self.seed, self.num_workers = val_fraction, split_by, seed, num_workers
        self.split: TokenizedSplit | None = None
        self.held_out = 0  # tokens at the end of the training split that no window reaches
        self._text_fingerprint = ""
        self._training: Any = None
        self._position: dict[str, Any] = {}

    def setup(self, stage: str | None = None) -> None:
        """Open and tokenize the text, once; processes that run side by side share the work through the cache."""
        if self.split is not None:
            return
        corpus = open_corpus(self.source, self.path, self.cache_dir)
        if corpus.note and not rank():
            warnings.warn(corpus.note, stacklevel=2)
        split = tokenize(corpus, self.tokenizer, self.cache_dir, self.val_fraction, self.split_by)
        name = self.path or self.source
        if len(split.train) <= self.context_length:
            raise UserError(
                f"The training split of {name} has {len(split.train)} tokens, shorter than one window of "
                f"data.context_length={self.context_length} and its target; lower that or use a longer text."
            )
        if len(split.val) < 2:
            raise UserError(f"The validation split of {name} is empty; raise data.val_fraction or use a longer text.")
        self.split, self._text_fingerprint = split, corpus.fingerprint

    @property
    def text(self) -> TextRecord:
        """What a checkpoint keeps of the text."""
        self.setup()
        return TextRecord(self.source, self.path, self.val_fraction, self.split_by, self._text_fingerprint)

    @property
    def train_tokens(self) -> int:
        """Tokens of the training split that are trained on."""
        return len(self._tokenized().train) - self.held_out

    def hold_out(self, tokens: int) -> None:
        """Train on all but the last so many tokens of the training split; on all, where nothing would be left."""
        left = len(self._tokenized().train) - tokens
        self.held_out = tokens if left > self.context_length else 0

    def training_text(self) -> np.ndarray:
        """(N,) ids of the training split, those that are held out as well: what a memory holds."""
        return self._tokenized().train[:]

    @property
    def train_windows(self) -> int:
        """Windows in an epoch, of all devices together."""
        return (self.train_tokens - 1) // self.context_length

    @property
    def tokens_per_step(self) -> int:
        """Targets in a training batch of one device; an epoch smaller than a batch is one smaller batch."""
        return min(self.batch_size, self.train_windows) * self.context_length

    def train_dataloader(self) -> Any:
        """This rank's training windows, in an order that depends on (seed, epoch)."""
        split, (rank, ranks) = self._tokenized(), self._place()
        repeat = bool(getattr(self.trainer, "overfit_batches", 0))
        batches = TrainingBatches(
            self.train_tokens, self.context_length, self.batch_size, self.seed, rank, ranks, repeat
        )
        return self._continued(TrainingLoader(split.train, batches, **self._loading()))

    def val_dataloader(self) -> WindowLoader:
        """This rank's share of a full pass over the validation split."""
        split, (rank, ranks) = self._tokenized(), self._place()
        batches = EvaluationBatches(len(split.val), self.eval_context_length, self.eval_batch_size, rank, ranks)
        return WindowLoader(split.val, batches, **self._loading())

    def state_dict(self) -> dict[str, Any]:
        """The position of the training loader and what it reads, for checkpoints."""
        return self._training.state_dict() | {"text": self._tokenized().fingerprint} if self._training else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue there. Lightning restores loaders itself, but not those made before it restores its loops."""
        position = dict(state_dict)
        if position.pop("text", None) not in (None, self._tokenized().fingerprint):
            warnings.warn(
                f"{self.path or self.source} or its split has changed since the checkpoint; "
                "the run goes on with what is there now.",
                stacklevel=2,
            )
        self._position = position

    def _continued(self, loader: Any) -> Any:
        """A training loader that is to go on where a checkpoint was taken, if there is one."""
        self._training = loader
        if self._position:
            loader.load_state_dict(self._position)
        return loader

    def _tokenized(self) -> TokenizedSplit:
        self.setup()
        assert self.split is not None
        return self.split

    def _place(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def _loading(self) -> dict[str, Any]:
        return {"num_workers": self.num_workers, "pin_memory": torch.cuda.is_available()}


def _unchanged(batch: Any) -> Any:
    return batch
