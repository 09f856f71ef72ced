"""Will it fit? A lower bound on what training needs, against what the machine has, before anything is allocated."""

import contextlib
import os
from pathlib import Path

from yinggem.common.errors import UserError
from yinggem.model.config import ModelConfig

FLOAT = 4  # bytes
MOMENTS = {"AdamW": 2, "Adam": 2, "MuonAdamW": 1, "Muon": 1, "SGD": 0}  # floats an optimizer keeps per weight, at least


def check_memory(config: ModelConfig, tokens: int, optimizer: str, available: int | None = None) -> None:
    """Refuse a training step of `tokens` tokens that cannot fit.

    Args:
        optimizer: the name of its class; one that is not known is taken to keep nothing.
        available: bytes; what this machine has left by default.

    Raises:
        UserError: it cannot fit; the sentence says how much is needed at least.
    """
    available = available_memory() if available is None else available
    weights = config.parameters * FLOAT * (2 + MOMENTS.get(optimizer, 0))  # and their gradients
    activations = tokens * floats_per_token(config) * FLOAT
    if available is None or weights + activations <= available:
        return
    what = f"weights {_gigabytes(weights)}, a batch of {tokens:,} tokens {_gigabytes(activations)}"
    raise UserError(
        f"Training would need at least {_gigabytes(weights + activations)} of memory ({what}) and "
        f"{_gigabytes(available)} are free; lower data.batch_size, data.context_length or the sizes of the model."
    )


def floats_per_token(config: ModelConfig) -> int:
    """What the backward pass keeps of one token, at least: inputs of the matrix products, bfloat16 allowed for."""
    return config.num_hidden_layers * (4 * config.hidden_size + 2 * config.intermediate_size) // 2


def available_memory() -> int | None:
    """Bytes that could be allocated now, the limit of a container respected; None where the system does not say."""
    known = []
    with contextlib.suppress(OSError, ValueError, KeyError):
        rows = (line.split(":") for line in Path("/proc/meminfo").read_text(encoding="utf-8").splitlines())
        sizes = {name: int(value.split()[0]) << 10 for name, value in rows}
        known.append(sizes["MemAvailable"] + sizes["SwapFree"])
    with contextlib.suppress(OSError, ValueError, KeyError):
        group = Path("/sys/fs/cgroup")
        used = dict(line.split() for line in (group / "memory.stat").read_text(encoding="utf-8").splitlines())["anon"]
        known.append(max(0, int((group / "memory.max").read_text(encoding="utf-8")) - int(used)))
    if not known:
        with contextlib.suppress(OSError, ValueError, AttributeError):
            known.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    return min(known, default=None)


def _gigabytes(size: float) -> str:
    return f"{size / 1e9:,.1f} GB"
