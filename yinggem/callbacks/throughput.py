"""How fast the machine works and how much memory it uses: logged with the other figures."""

import contextlib
import time
import warnings
from functools import lru_cache
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.fabric.utilities.throughput import get_available_flops
from lightning.pytorch.callbacks import Callback

from yinggem.training.module import LanguageModule

SIZE, SECONDS = 1024, 0.3  # of the matrix product that shows the CPU's peak


class Throughput(Callback):
    """Logs tokens_per_second, the share of the machine's peak that this is, and memory.

    Speeds are means over the steps since the last log, without validations and checkpoints. The share counts the
    operations of `Transformer.flops_per_token`. The peak is measured on a CPU and looked up for a GPU; on other devices
    it is unknown and the share is left out. Memory is in GB: what this process has resident in RAM, and the most that
    tensors held on the GPU.
    """

    def __init__(self) -> None:
        self._tokens, self._seconds, self._started = 0, 0.0, 0.0
        self._peak = 0.0  # FLOP/s of all devices; 0: unknown

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Learn the peak of all devices together, the processes that share a CPU measuring at the same time."""
        if not trainer.loggers or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        assert isinstance(pl_module, LanguageModule)
        kind = torch.bfloat16 if "bf16" in trainer.precision else torch.float32
        kind = torch.float16 if trainer.precision.startswith("16") else kind
        own = peak_flops(pl_module.device, kind) or 0.0
        self._peak = float(trainer.strategy.reduce(torch.tensor(own, device=pl_module.device), reduce_op="sum"))

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Start the clock."""
        self._started = time.perf_counter()

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Stop the clock; log where the other figures are logged."""
        self._seconds += time.perf_counter() - self._started
        self._tokens += batch[0].numel() * trainer.world_size
        if pl_module.stepped and pl_module.is_logged(trainer.global_step) and self._seconds:
            rate = self._tokens / self._seconds
            figures = {"tokens_per_second": rate} | memory_figures(pl_module.device)
            if self._peak:
                work = pl_module.model.flops_per_token(batch[0].size(1))
                figures["machine/share_of_peak"] = rate * work / self._peak
            pl_module.log_figures(figures, trainer.global_step)
            self._tokens, self._seconds = 0, 0.0


@lru_cache(maxsize=16)
def peak_flops(device: torch.device, dtype: torch.dtype) -> float | None:
    """Floating-point operations a second that the device can do at most; None where that is unknown.

    A GPU's is the maker's figure, as Lightning lists it; a CPU's is the best of some matrix products.
    """
    if device.type == "cpu":
        return _measured_flops(dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a device is not on the list
        with contextlib.suppress(Exception):  # an unknown name of a known family
            return get_available_flops(device, dtype)
    return None


def _measured_flops(dtype: torch.dtype) -> float:
    generator = torch.Generator().manual_seed(0)  # its own: the run's random numbers stay as they are
    left, right = (torch.randn(SIZE, SIZE, generator=generator).to(dtype) for _ in range(2))
    out, best = left @ right, float("inf")
    end = time.perf_counter() + SECONDS
    while best == float("inf") or time.perf_counter() < end:
        start = time.perf_counter()
        torch.mm(left, right, out=out)
        best = min(best, time.perf_counter() - start)
    return 2 * SIZE**3 / best


def memory_figures(device: torch.device) -> dict[str, float]:
    """What this process holds now, in GB, as far as the system tells."""
    figures = {}
    resident = resident_bytes()
    if resident is not None:
        figures["machine/memory_gb"] = resident / 1e9
    if device.type == "cuda":
        figures["machine/gpu_memory_gb"] = torch.cuda.max_memory_allocated(device) / 1e9
    return figures


def resident_bytes() -> int | None:
    """Memory of this process that is in RAM: now on Linux, at most so far on other Unix, None elsewhere."""
    with contextlib.suppress(ImportError, OSError, ValueError, IndexError):
        import resource

        return int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1]) * resource.getpagesize()
    with contextlib.suppress(ImportError, OSError):
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS, which has no /proc
    return None
