"""Windows streamed from token shards on local disk or object storage by litdata, continued after any batch.

A window is a block of context_length + 1 tokens; an epoch is every whole block of every chunk once. The order comes
from (seed, epoch): chunks are shuffled and dealt out to the ranks, blocks are shuffled within a chunk.
"""

import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from yinggem.common.cache_folder import default_cache_dir, usable_folder
from yinggem.common.errors import UserError
from yinggem.common.files import is_url
from yinggem.memory.ngram_memory import COUNTED_TOKENS
from yinggem.text.splitting import TokenizedSplit
from yinggem.text.tokenizer import Tokenizer
from yinggem.text.tokens.token_shards import TokenShards, check_ids, open_shards, open_training, read_validation
from yinggem.training.datamodule import SHARDS, TextDataModule
from yinggem.training.loaders import Batch

OF_A_PLACE = ("input_dir_path", "input_dir_url", "cache_dir_path")  # the shards may have moved since the checkpoint


class BlockLoader:
    """litdata's loader with epochs that Lightning counts; it can stop after any batch and continue with the next.

    Args:
        make: a new `litdata.StreamingDataLoader` at its beginning, in batches of numpy blocks (B, T + 1).
        batch_size: B.
        repeat: the same windows in every epoch.
    """

    def __init__(self, make: Callable[[], Any], batch_size: int, repeat: bool = False) -> None:
        self._make, self.batch_size, self.repeat = make, batch_size, repeat
        self.epoch = self.position = 0  # windows of the epoch that were handed out to this rank
        self._state: dict[str, Any] = {}  # litdata's, where this epoch is to be continued
        self._length = len(make())
        self.batch_sampler = SimpleNamespace(sampler=self)  # where Lightning looks for `set_epoch`

    def __len__(self) -> int:
        return self._length

    def set_epoch(self, epoch: int) -> None:
        """Lightning calls this before every epoch, also before one that is resumed."""
        if epoch != self.epoch:
            self.epoch, self.position, self._state = epoch, 0, {}

    def __iter__(self) -> Iterator[Batch]:
        if self.batches_done >= len(self):  # continued at the end of an epoch
            return
        loader = self._make()
        if self._state:
            here = loader.state_dict()["dataset"]
            data = self._state["dataset"] | {name: here[name] for name in OF_A_PLACE}
            loader.load_state_dict(self._state | {"dataset": data})
        else:
            loader.current_epoch = 0 if self.repeat else self.epoch  # the loader adds one
        for rows in loader:
            self.position, self._state = self.position + self.batch_size, loader.state_dict()
            yield rows[:, :-1], rows[:, 1:]

    @property
    def batches_done(self) -> int:
        """How many batches of this size there would be before the position."""
        return min(len(self), self.position // self.batch_size)

    def state_dict(self) -> dict[str, Any]:
        """Epoch, windows of it that were handed out, and what litdata needs to go on from there."""
        return {"epoch": self.epoch, "windows": self.position, "litdata": self._state}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state_dict` was taken. Version 0.1.0 counted batches, whose size litdata knows.

        With batches of another size litdata goes on after the last whole one of those: some windows come twice.
        """
        self.epoch, self._state = state["epoch"], state["litdata"]
        size = self._state["dataset"]["batch_size"] if self._state else self.batch_size
        self.position = state["windows"] if "windows" in state else state["position"] * size
        again = self.position % self.batch_size
        if again and self.batches_done < len(self):
            warnings.warn(f"With the new data.batch_size, {again} windows of this epoch come twice.", stacklevel=2)
            self.position -= again


class StreamingDataModule(TextDataModule):
    """Token shards that `yinggem shard` made, in windows of `context_length` tokens.

    The validation part is small enough for memory, and evaluated like any text: every token after the first once.

    Args:
        tokenizer: replaced by the one that travels with the shards.
        path: the folder, or the URL of one on object storage (s3://, gs://, azure://, r2://).
        cache_dir: where chunks of a URL are kept; the user's cache folder by default.
        context_length, batch_size, eval_batch_size, seed, eval_context_length, mask_documents: as `TextDataModule`.
        num_workers: processes that read ahead; worth having for object storage.

    Raises:
        UserError: as `TextDataModule` and `open_shards`; fewer windows than a batch.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        path: str | None = None,
        context_length: int = 256,
        batch_size: int = 16,
        eval_batch_size: int | None = None,
        cache_dir: str | None = None,
        seed: int = 0,
        num_workers: int = 0,
        eval_context_length: int | None = None,
        mask_documents: bool = False,
    ) -> None:
        super().__init__(
            tokenizer, SHARDS, path, context_length, batch_size, eval_batch_size,
            cache_dir=cache_dir, seed=seed, num_workers=num_workers, eval_context_length=eval_context_length,
            mask_documents=mask_documents,
        )  # fmt: skip
        self.shards: TokenShards | None = None

    def setup(self, stage: str | None = None) -> None:
        """Open the shards and read the validation part, once."""
        if self.shards is not None:
            return
        if not self.path:
            raise UserError("data=streaming needs data.path=FOLDER, or a URL, of shards made by `yinggem shard`.")
        shards = open_shards(str(self.path), self._cache())
        self.tokenizer = shards.tokenizer
        val = read_validation(shards.val, self.tokenizer.vocab_size)
        train = open_training(shards.train, val.dtype)
        self.split = TokenizedSplit(train, val, self.tokenizer.token_byte_lengths)
        self.shards, self._text_fingerprint = shards, shards.fingerprint
        self._refuse_less_than(self.batch_size)

    def hold_out(self, tokens: int) -> None:
        """Train on all but the last so many tokens of the last chunk; on all, where it would have no window left."""
        last = self._opened().train.chunks[-1]["dim"]
        self.held_out = tokens if last - tokens > self.context_length else 0

    def training_text(self) -> np.ndarray:
        """(N,) ids of the training part; of a large one the last, which are those that are counted.

        Raises:
            UserError: it is at a URL, or damaged.
        """
        train = self._tokenized().train
        if not len(train):
            raise UserError(f"memory=ngram counts a text on a disk, and {self.path} is none; copy it, or memory=none.")
        ids = train[-COUNTED_TOKENS:]
        check_ids(ids, self.tokenizer.vocab_size, str(self.path))
        return ids

    @property
    def train_windows(self) -> int:
        """Whole blocks of all chunks."""
        size, part = self.context_length + 1, self._opened().train
        last = part.chunks[-1]["dim"]
        return part.windows(size) - last // size + (last - self.held_out) // size

    @property
    def train_tokens(self) -> int:
        """Tokens of the training part that are trained on."""
        return self._opened().train.windows(1) - self.held_out

    def _opened(self) -> TokenShards:
        self.setup()
        assert self.shards is not None
        return self.shards

    def train_dataloader(self) -> Any:
        """This rank's training windows, in an order that depends on (seed, epoch)."""
        self._refuse_less_than(self.batch_size * self._place()[1])
        repeat = bool(getattr(self.trainer, "overfit_batches", 0))
        return self._continued(BlockLoader(self._streaming_loader, self.batch_size, repeat))

    def _streaming_loader(self) -> Any:
        from litdata import StreamingDataLoader, StreamingDataset
        from litdata.streaming import TokensLoader

        part, size = self._opened().train, self.context_length + 1
        place = part.place
        dataset = StreamingDataset(
            place, str(self._cache()) if is_url(place) else None, TokensLoader(size),
            shuffle=True, drop_last=True, seed=self.seed, item_shuffle_window="full",
        )  # fmt: skip
        if self.held_out:
            dataset.region_of_interest[-1] = 0, (part.chunks[-1]["dim"] - self.held_out) // size
        return StreamingDataLoader(
            dataset, batch_size=self.batch_size, num_workers=self.num_workers,
            collate_fn=partial(_join_blocks, self.tokenizer.vocab_size, str(self.path)),
            pin_memory=torch.cuda.is_available(),
        )  # fmt: skip

    def _cache(self) -> Path:
        folder = default_cache_dir() if self.cache_dir is None else Path(self.cache_dir).expanduser()
        return usable_folder(folder / "streaming")

    def _refuse_less_than(self, windows: int) -> None:
        if self.train_windows < windows:
            raise UserError(
                f"The training part of {self.path} has {self.train_windows} windows of data.context_length="
                f"{self.context_length}, fewer than a batch of {windows}; lower data.context_length or data.batch_size."
            )


def _join_blocks(vocab_size: int, path: str, blocks: list[np.ndarray]) -> torch.Tensor:
    """A batch (B, T + 1) int64 of blocks (T + 1,). A plain function: where processes are spawned, it is pickled."""
    rows = np.stack(blocks)
    check_ids(rows, vocab_size, path)
    return torch.from_numpy(rows.astype(np.int64))
