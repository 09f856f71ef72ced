"""What goes on inside the model while it trains: how much a step changes it, how far back its heads look."""

from collections.abc import Iterator
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor, nn

from yinggem.common.checks import check_whole_number
from yinggem.model.attention_weights import attention_weights
from yinggem.model.masks import band_mask
from yinggem.model.transformer import Transformer
from yinggem.training.module import LanguageModule

QUERIES = 256  # the last ones of a window are looked at: bounded work, whatever the length


class UpdateRatios(Callback):
    """Logs optim/update_ratio/GROUP: RMS of what a step changed over RMS of the weights before it.

    Measured on the weights themselves, so it holds for every optimizer, clipping, decay and rounding included; about
    1e-3 is usual. Only logged steps are measured: during them a copy of the weights is kept.
    """

    def __init__(self) -> None:
        self._before: dict[str, Tensor] = {}

    def on_before_optimizer_step(self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Any) -> None:
        """Keep the weights of a step that will be logged."""
        assert isinstance(pl_module, LanguageModule)
        if pl_module.is_logged(pl_module.next_step) and trainer.loggers and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            self._before = {name: local_part(weights).clone() for name, weights in pl_module.named_parameters()}

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, *args: Any) -> None:
        """Compare with what they have become."""
        before, self._before = self._before, {}
        if not before:
            return
        sums: dict[str, Tensor] = {}  # by group: squares of the update, squares of the weights
        for name, weights in pl_module.named_parameters():
            old, new = before.pop(name).float(), local_part(weights).float()
            squares = torch.stack(((new - old).square().sum(), old.square().sum()))
            sums[group_of(name)] = sums.get(group_of(name), 0) + squares
        ratios = {}
        for group, squares in sums.items():  # summed over processes: each may hold a shard, or the same as all others
            update, size = trainer.strategy.reduce(squares, reduce_op="sum").tolist()
            if size:
                ratios[f"optim/update_ratio/{group}"] = (update / size) ** 0.5
        pl_module.log_figures(ratios, trainer.global_step)


def local_part(weights: Tensor) -> Tensor:
    """The part of a parameter that this process holds: all of it, unless it is sharded."""
    local = getattr(weights, "to_local", None)
    return (local() if local else weights).detach()


def group_of(name: str) -> str:
    """The group of a parameter by its name: embedding, attention, mlp, norms or head."""
    if "norm" in name:
        return "norms"
    return next((part for part in ("embedding", "attention", "mlp", "head") if f".{part}." in f".{name}"), "other")


class AttentionDistances(Callback):
    """Shows at every validation how far back each layer looks.

    A histogram per layer in TensorBoard (attention/layer_NN: attention weight over distance 0 .. W-1, averaged over
    heads and queries) and the mean of each for all loggers (attention/mean_distance/layer_NN, in tokens).

    Args:
        windows: of the first validation batch that are looked at, at most their last 256 queries.

    Raises:
        UserError: `windows` is not a whole number from 1 on.
    """

    def __init__(self, windows: int = 2) -> None:
        remedy = "leave the callback out with ~callbacks.attention_distances"
        check_whole_number("callbacks.attention_distances.windows", windows, 1, remedy=remedy)
        self.windows = windows

    def on_validation_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int, *args: Any
    ) -> None:
        """Look, once per validation, while the weights that are evaluated are in place."""
        skipped = trainer.sanity_checking or trainer.state.fn != "fit" or trainer.fast_dev_run  # type: ignore[attr-defined]
        if batch_idx or skipped or not trainer.is_global_zero or not trainer.loggers or is_sharded(pl_module):
            return
        assert isinstance(pl_module, LanguageModule)
        step, means = trainer.global_step, {}
        with trainer.precision_plugin.forward_context():
            layers = list(attention_distances(pl_module.model, batch[0][: self.windows]))
        for layer, distribution in enumerate(layers):
            means[f"attention/mean_distance/layer_{layer:02}"] = mean_distance(distribution)
            for logger in trainer.loggers:
                if isinstance(logger, TensorBoardLogger):
                    add_distribution(logger.experiment, f"attention/layer_{layer:02}", distribution, step)
        pl_module.log_figures(means, step)


def is_sharded(module: nn.Module) -> bool:
    """Whether a process alone cannot run the model."""
    return any(hasattr(weights, "to_local") or weights.numel() == 0 for weights in module.parameters())


def attention_distances(model: Transformer, tokens: Tensor) -> Iterator[Tensor]:
    """For each layer, the share of attention weight at each distance, averaged over heads and (the last) queries.

    Args:
        model: in eval mode.
        tokens: (B, T) ids.

    Yields:
        (W,) float32 on the CPU, summing to 1; W = min(window, T). Distance 0 is the token itself.
    """
    length = tokens.size(1)
    window, count = min(model.config.attention_window or length, length), min(QUERIES, length)
    sees = band_mask(count, length, window, tokens.device)  # (Q, T)
    positions = torch.arange(length, device=tokens.device)
    distance = (positions[-count:, None] - positions)[sees]  # (pairs,)
    for weights in attention_weights(model, tokens, count):
        mean = weights.mean((0, 1))[sees]
        yield torch.zeros(window, device=tokens.device).index_add_(0, distance, mean).div_(count).cpu()


def mean_distance(distribution: Tensor) -> float:
    """The average distance of a (W,) distribution, in tokens."""
    return float((distribution.double() * torch.arange(len(distribution))).sum())


def add_distribution(writer: Any, name: str, distribution: Tensor, step: int) -> None:
    """Write a (W,) distribution over 0 .. W-1 as a histogram of TensorBoard, one bucket a distance."""
    places = torch.arange(len(distribution), dtype=torch.float64)
    weights = distribution.double()
    writer.add_histogram_raw(
        name, min=0.0, max=float(len(places)), num=float(weights.sum()), sum=float((weights * places).sum()),
        sum_squares=float((weights * places**2).sum()), bucket_limits=(places + 1).tolist(),
        bucket_counts=weights.tolist(), global_step=step,
    )  # fmt: skip
