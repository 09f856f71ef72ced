"""Where a model runs."""

import torch

from yinggem.common.errors import UserError


def choose_device(name: str | None) -> torch.device:
    """The device of that name, else the fastest there is; UserError when this machine cannot use it."""
    if name is None:
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).tolist()
    except Exception:  # torch raises half a dozen kinds, down to AssertionError
        raise UserError(f"--device {name!r} cannot be used on this machine; leave it out, or use cpu.") from None
    return device
