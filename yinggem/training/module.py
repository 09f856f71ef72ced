"""The LightningModule: model, loss, optimizer and the figures that are logged."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.callbacks import WeightAveraging
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.optim import Optimizer

from yinggem.common.errors import UserError
from yinggem.inference.checkpoint import metadata
from yinggem.inference.evaluation import METRICS, Evaluation, evaluate_batch
from yinggem.inference.files.stored_model import PREFIX
from yinggem.model.config import ModelConfig
from yinggem.model.transformer import Transformer
from yinggem.text.tokenizer import Tokenizer
from yinggem.training.datamodule import TextDataModule
from yinggem.training.distributed.sharding import ShardedStrategy, gathered, gathered_weights, shard
from yinggem.training.final_validation import is_final_validation
from yinggem.training.loaders import Batch
from yinggem.training.optimizers.building import make_optimizer, make_schedule
from yinggem.training.plan.continuing import (
    adapt_optimizer_state,
    check_same_model,
    recorded_settings,
    schedule_after,
)

OptimizerFactory = Callable[[list[dict[str, Any]]], Optimizer]
SchedulerFactory = Callable[..., torch.optim.lr_scheduler.LRScheduler]
UNLIMITED = 1 << 60  # steps of a run that only time or patience ends
VALIDATED = tuple(f"val/{name}" for name in METRICS)  # what callbacks can monitor


class LanguageModule(LightningModule):
    """Trains a Transformer to predict the next token.

    What happens in a step depends on (seed, epoch, batch, rank) and the weights alone: dropout is seeded anew for every
    batch. That is why a resumed run ends with the bits of one that never stopped.

    Args:
        model: the network.
        tokenizer: saved with the weights, so that a checkpoint alone is enough to generate text.
        optimizer: called with parameter groups.
        scheduler: called with the optimizer and total_steps; stepped after every optimizer step.
        context_length: tokens per window of an evaluation, saved for later ones.
        seed: decides dropout.
        skip_bad_steps: how many steps with a non-finite gradient may be left out before the run stops.
    """

    def __init__(
        self,
        model: Transformer,
        tokenizer: Tokenizer,
        optimizer: OptimizerFactory,
        scheduler: SchedulerFactory,
        context_length: int,
        seed: int = 0,
        skip_bad_steps: int = 0,
    ) -> None:
        super().__init__()
        self.model, self.tokenizer, self.seed = model, tokenizer, seed
        self.context_length = context_length
        self.skip_bad_steps = skip_bad_steps
        self._optimizer, self._scheduler = optimizer, scheduler
        self.make_optimizer(total_steps=1)  # refuses bad values before anything is written
        self._uses_dropout = bool(model.config.dropout or model.config.attention_dropout)
        lengths = torch.from_numpy(tokenizer.token_byte_lengths.astype(np.int64))
        self.token_bytes: Tensor
        self.register_buffer("token_bytes", lengths, persistent=False)
        self._losses: list[Tensor] = []  # of the batches since the last optimizer step
        self.stepped = False  # whether the last batch ended with an optimizer step: with accumulation not each does
        self._evaluated = Evaluation()  # this process's share of the validation so far
        self.grad_norm = torch.zeros(())
        self.newest: dict[str, float] = {}  # the last value of every figure that was logged
        self.skipped_steps = 0
        self.validated_step = 0  # of the latest validation at its interval
        self.good_checkpoints: dict[str, str] = {}  # "best", "last": whose weights proved usable; callbacks say which
        self._settings: dict[str, Any] = {}  # of the optimizer, as configured, for checkpoints
        self._rate_before: float | None = None  # the learning rate that a continued run had come to

    def make_optimizer(self, total_steps: int) -> tuple[Optimizer, Any]:
        """A new optimizer for the weights, and its schedule over a run of `total_steps`."""
        optimizer = make_optimizer(self._optimizer, self.model)
        return optimizer, make_schedule(self._scheduler, optimizer, total_steps)

    def schedule_after(self, steps: int, optimizer: Optimizer, total_steps: int) -> Any:
        """The schedule as configured, `steps` steps after its beginning."""
        return schedule_after(steps, self._scheduler, optimizer, total_steps)

    def configure_model(self) -> None:
        """Share the weights out over the processes, where the strategy does that."""
        strategy = self.trainer.strategy
        if isinstance(strategy, ShardedStrategy) and not isinstance(self, FSDPModule):
            shard(self, self.model.blocks, strategy.device_mesh["data_parallel"], strategy.policy)

    def whole_model(self) -> Transformer:
        """The model with all its weights; where they are shared out, every process must call this.

        The first process then gets a copy; what the others get must not be used.
        """
        weights = gathered_weights(self)
        if weights is None:
            return self.model
        copy = Transformer(self.model.config)
        copy.load_state_dict({name.removeprefix(PREFIX): tensor for name, tensor in weights.items()}, strict=False)
        return copy.to(self.device).train(self.model.training)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, T) -> logits (B, T, V)."""
        return self.model(tokens)

    def loss(self, batch: Batch, reduction: str = "mean") -> Tensor:
        """Cross-entropy in nats of a batch of windows."""
        return self.model.loss(batch[0], batch[1], reduction, *batch[2:])

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Seed dropout."""
        self.stepped = False
        if self._uses_dropout:
            words = np.random.SeedSequence((self.seed, self.current_epoch, batch_idx, self.global_rank))
            torch.manual_seed(int(words.generate_state(1, np.uint64)[0] >> 1))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The mean loss of a batch, weighted so that the gradient of a step is the mean over all its batches.

        Lightning divides by accumulate_grad_batches. The last step of an epoch may have fewer batches than that, and
        so may the first one of a run that is continued with other sizes.
        """
        loss = self.loss(batch)
        self._losses.append(loss.detach())
        together = self.trainer.accumulate_grad_batches
        first = batch_idx + 1 - len(self._losses)
        end = min((batch_idx // together + 1) * together, self.trainer.num_training_batches)
        return loss if end - first == together else loss * (together / (end - first))

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: int | float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip, keep the norm for the log, and let no non-finite gradient reach the weights."""
        parameters = [p for p in self.model.parameters() if p.grad is not None]
        by_norm = bool(gradient_clip_val) and gradient_clip_algorithm in (None, "norm")
        limit = float(gradient_clip_val) if by_norm and gradient_clip_val is not None else math.inf
        self.grad_norm = gathered(nn.utils.clip_grad_norm_(parameters, limit))
        if gradient_clip_val and not by_norm:
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)
        scaler = getattr(self.trainer.precision_plugin, "scaler", None)  # float16: it skips overflows of gradients
        if not math.isfinite((self.grad_norm if scaler is None else self._losses[-1]).item()):
            self._skip_bad_step(optimizer)

    def _skip_bad_step(self, optimizer: Optimizer) -> None:
        """Leave the weights as they are, or stop when that happened too often; every rank has the same gradients."""
        if self.skipped_steps < self.skip_bad_steps:
            self.skipped_steps += 1
            optimizer.zero_grad(set_to_none=True)  # an optimizer passes over parameters without a gradient
            return
        loss, norm = self._losses[-1].item(), self.grad_norm.item()
        raise self.bad_numbers(f"The loss is {loss:g} and the gradient norm {norm:g}", self.next_step)

    def bad_numbers(self, what: str, step: int) -> UserError:
        """The error that ends a run whose numbers went bad in `step`."""
        rate = self.trainer.optimizers[0].param_groups[0]["lr"]
        good = self.good_checkpoints.get("last") or self.good_checkpoints.get("best")
        kept = f"the last good checkpoint is {good}" if good else "no good checkpoint was written yet"
        return UserError(
            f"{what} at step {step} with learning rate {rate:g}; {kept}: lower optimizer.lr, or allow some skipped "
            "steps with trainer.skip_bad_steps=N."
        )

    def optimizer_step(
        self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Callable[[], Any] | None = None
    ) -> None:
        """Step and log. Here and not through `self.log`: a checkpoint of this step must come after its figures."""
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        losses, self._losses, self.stepped = self._losses, [], True
        if losses and self.is_logged(self.next_step):  # Lightning counts the step after this hook
            loss = float(self.trainer.strategy.reduce(torch.stack(losses).mean(), reduce_op="mean"))
            figures = {"train/loss": loss, "grad_norm": float(self.grad_norm), "epoch": self.current_epoch}
            figures["lr"] = optimizer.param_groups[0]["lr"]
            if self.skipped_steps:
                figures["skipped_steps"] = self.skipped_steps
            self.log_figures(figures, self.next_step)

    @property
    def next_step(self) -> int:
        """The number of the step that is being taken. A step's number is how many have been taken with it."""
        return self.global_step + 1

    def is_logged(self, step: int) -> bool:
        """Whether the figures of a step are wanted."""
        return step % self.trainer.log_every_n_steps == 0  # type: ignore[attr-defined]

    def log_figures(self, figures: dict[str, float], step: int) -> None:
        """Write to every logger; `step` is the number of optimizer steps taken so far."""
        self.newest |= figures
        for logger in self.trainer.loggers:
            logger.log_metrics(figures, step)

    def on_validation_epoch_start(self) -> None:
        """Forget the last evaluation."""
        self._evaluated = Evaluation()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Add up nats, tokens and bytes."""
        inputs, targets, *counted = batch
        if not targets.numel():  # no share of the last batches; yet where weights are gathered, all must take part
            self.loss((targets.new_zeros(1, 1), targets.new_zeros(1, 1)))
            return
        self._evaluated += evaluate_batch(self.model, inputs, targets, self.token_bytes, *counted)

    def on_validation_epoch_end(self) -> None:
        """Log the exact loss over the whole split, whatever the number of devices."""
        total = self._evaluated
        if self.trainer.world_size > 1:  # alone there is nothing to add, and some devices (MPS) have no float64
            sums = self.trainer.strategy.reduce(total.to_tensor().to(self.device), reduce_op="sum")
            total = Evaluation.from_tensor(sums)
        if not total.tokens:
            return
        loss = total.loss
        if not math.isfinite(loss) and self.trainer.state.fn == "fit":
            raise self.bad_numbers(f"The validation loss is {loss:g}", self.global_step)
        figures = dict(zip(VALIDATED, total.metrics().values(), strict=True))
        self.log_dict(figures, logger=False, rank_zero_only=False)  # for the callbacks that monitor them
        if self.trainer.state.fn == "fit" and not self.trainer.sanity_checking:
            if not is_final_validation(self.trainer):  # at the end Lightning counts a part of an epoch as a whole one
                self.validated_step = self.global_step
                figures |= {"epoch": self.current_epoch}
            self.log_figures(figures, self.global_step)

    def configure_optimizers(self) -> Any:
        """The optimizer, and its schedule over the whole run, stepped after every optimizer step."""
        optimizer = make_optimizer(self._optimizer, self.model)
        self._settings = recorded_settings(optimizer)
        scheduler = make_schedule(self._scheduler, optimizer, self.total_steps)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step", "name": "lr"},
        }

    @property
    def total_steps(self) -> int:
        """The optimizer steps that the schedule spans."""
        steps = self.trainer.estimated_stepping_batches
        return int(steps) if math.isfinite(steps) and steps > 0 else UNLIMITED

    def on_train_start(self) -> None:
        """Where a run is continued, compute the learning rate anew: the checkpoint brought the old schedule."""
        before, self._rate_before = self._rate_before, None
        if before is None:
            return
        (config,), (optimizer,) = self.trainer.lr_scheduler_configs, self.trainer.optimizers
        config.scheduler = self.schedule_after(self.global_step, optimizer, self.total_steps)
        rate = optimizer.param_groups[0]["lr"]
        if not math.isclose(rate, before, rel_tol=1e-9):
            length = "" if self.total_steps == UNLIMITED else f"; the schedule now spans {self.total_steps:,} steps"
            rank_zero_warn(f"The learning rate goes on at {rate:g}. It was {before:g} at the checkpoint{length}.")

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what generate.py needs, as plain data."""
        data = getattr(self.trainer, "datamodule", None)
        text = {"data": data.text.to_dict()} if isinstance(data, TextDataModule) else {}
        checkpoint["yinggem"] = metadata(self.model.config, self.tokenizer, context_length=self.context_length, **text)
        checkpoint["skipped_steps"] = self.skipped_steps
        checkpoint["validated_step"] = self.validated_step
        checkpoint["optimizer_settings"] = self._settings

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse what cannot go on; give the state of the optimizer the settings of this run.

        Raises:
            UserError: another tokenizer, whose ids would mean other text; another model or optimizer.
        """
        saved = checkpoint["yinggem"]
        if saved["tokenizer"] != self.tokenizer.state_dict():
            raise UserError(
                "The checkpoint was trained with another tokenizer; use the text and the tokenizer it was trained with."
            )
        check_same_model(ModelConfig.from_dict(saved["model_config"]).to_dict(), self.model.config.to_dict())
        self._rate_before = adapt_optimizer_state(checkpoint, make_optimizer(self._optimizer, self.model))
        self.skipped_steps = checkpoint.get("skipped_steps", 0)
        step = checkpoint.get("global_step", 0)
        self.validated_step = checkpoint.get("validated_step", step)  # which version 0.1.0 did not keep
        callbacks = self.trainer.callbacks  # type: ignore[attr-defined]
        if "current_model_state" in checkpoint and not any(isinstance(c, WeightAveraging) for c in callbacks):
            # Averaging was switched off: go on from the weights that were trained, which the optimizer's state fits.
            checkpoint["state_dict"] = checkpoint["current_model_state"]
