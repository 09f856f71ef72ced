"""A text, and the loaders of its windows: what a run trains on and is measured by."""

import warnings
from os import PathLike
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningDataModule

from yinggem.common.checks import check_whole_number
from yinggem.common.errors import UserError
from yinggem.common.stopping import leave_stopping_to_parent
from yinggem.runs.processes import rank
from yinggem.text.corpus import Corpus, open_corpus
from yinggem.text.duplicates import notes_on_split
from yinggem.text.marks import PLACE
from yinggem.text.reading import Reading
from yinggem.text.splitting import TokenizedSplit, tokenize
from yinggem.text.text_record import TextRecord
from yinggem.text.tokenizer import Tokenizer
from yinggem.training.loaders import EvaluationBatches, TrainingBatches, TrainingLoader, WindowLoader

SHARDS = "streaming"  # the source whose documents were marked when it was made


class TextDataModule(LightningDataModule):
    """A text, split and tokenized, in windows of `context_length` tokens.

    Args:
        tokenizer: fitted to the training split if it is not fitted yet.
        source, path: as `yinggem.text.corpus.open_corpus`.
        context_length: tokens per window.
        batch_size: windows per step and device.
        eval_batch_size: windows per evaluation step and device; as `batch_size` by default.
        val_fraction, split_by, test_fraction: as `yinggem.text.splitting.tokenize`.
        cache_dir: where token arrays are kept; the user's cache folder by default.
        seed: with the epoch it decides every training window.
        num_workers: processes that cut windows; 0 is fastest, for a window is a copy from a memory map.
        eval_context_length: tokens per window of an evaluation; as `context_length` by default. A model with an
            attention window reads on through longer ones as it does when it generates, so that fewer tokens have to be
            predicted from a short context.
        documents, separator, field, encoding, format, template: as `yinggem.text.reading.Reading`.
        mask_documents: whether a token sees the tokens of its own document alone.

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
        test_fraction: float = 0.0,
        documents: str | None = None,
        separator: str | None = None,
        field: str = "text",
        encoding: str = "utf-8",
        format: str | None = None,
        template: str = PLACE,
        mask_documents: bool = False,
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
        self.reading = Reading(documents, separator, field, encoding, format, template)
        self.test_fraction, self.mask_documents = test_fraction, mask_documents
        if mask_documents and source != SHARDS and not self.reading.has_documents:
            raise UserError("data.mask_documents=true is for a text of documents; set data.documents as well.")
        self.split: TokenizedSplit | None = None
        self.held_out = 0  # tokens at the end of the training split that no window reaches
        self.text_has_changed = False  # since the checkpoint that the run goes on from
        self._text_fingerprint = ""
        self._training: Any = None
        self._position: dict[str, Any] = {}

    def setup(self, stage: str | None = None) -> None:
        """Open and tokenize the text, once; processes that run side by side share the work through the cache."""
        if self.split is not None:
            return
        corpus = open_corpus(self.source, self.path, self.cache_dir, self.reading)
        how = self.val_fraction, self.split_by, self.test_fraction
        split = tokenize(corpus, self.tokenizer, self.cache_dir, *how)
        if not rank():
            for note in [*corpus.notes, *notes_on_split(corpus, how, self.cache_dir)]:
                warnings.warn(note, stacklevel=2)
        self._refuse_useless(corpus, split)
        self.split, self._text_fingerprint = split, corpus.fingerprint

    def _refuse_useless(self, corpus: Corpus, split: TokenizedSplit) -> None:
        """UserError where nothing is to be learnt, or a split is too short, which says how much would do."""
        name, wanted = self.path or self.source, self.context_length + 1
        if all(map(str.isspace, corpus.iter_text())):
            raise UserError(f"{name} holds white space alone; name a text with words in it.")
        if len(split.train) < wanted:
            needed = 1.2 * corpus.characters * wanted / max(1, len(split.train))  # other text has fewer tokens
            step = 10 ** max(0, len(str(int(needed))) - 2)
            enough = -(-needed // step) * step
            raise UserError(
                f"The training split of {name} is shorter than one window of "
                f"data.context_length={self.context_length} and its target; lower that, or use a longer text: "
                f"about {enough:,.0f} characters instead of {corpus.characters:,} would be enough."
            )
        if len(split.val) < 2:
            raise UserError(f"The validation split of {name} is empty; raise data.val_fraction or use a longer text.")
        if self.test_fraction and (split.test is None or len(split.test) < 2):
            raise UserError(f"The test split of {name} is empty; raise data.test_fraction or use a longer text.")

    @property
    def document_end(self) -> int | None:
        """The id behind which a token sees nothing that was before; None: documents are not masked."""
        if not self.mask_documents:
            return None
        self.setup()
        if self.tokenizer.end_id is None:
            raise UserError(f"data.mask_documents=true is for a text of documents, and {self.path} was made without.")
        return self.tokenizer.end_id

    @property
    def text(self) -> TextRecord:
        """What a checkpoint keeps of the text."""
        self.setup()
        return TextRecord(
            self.source, self.path, self.val_fraction, self.split_by, self._text_fingerprint,
            self.test_fraction, self.reading,
        )  # fmt: skip

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
        self.text_has_changed = position.pop("text", None) not in (None, self._tokenized().fingerprint)
        if self.text_has_changed:
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
        return {
            "num_workers": self.num_workers,
            "pin_memory": torch.cuda.is_available(),
            "worker_init_fn": leave_stopping_to_parent,
        }
