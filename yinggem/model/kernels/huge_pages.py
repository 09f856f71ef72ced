"""Memory laid out for its use: kept for the next step of training, or in large pages to be read at every token."""

import contextlib
import ctypes
import mmap
import platform
from collections.abc import Sequence

import torch
from torch import Tensor

HUGE_PAGE = 1 << 21  # bytes, on x86 and most of ARM
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # names of glibc's malloc.h


def keep_freed_memory() -> bool:
    """Tell glibc to reuse large blocks instead of returning each to the system; False where it cannot.

    A block from mmap costs a page fault for every 4 KiB each time it is made: a 19 MB matrix product ran at 117
    GFLOP/s where the same product into warm memory ran at 190. Call it once, before the first large allocation.
    Other C libraries are left as they are.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(M_MMAP_MAX, 0) and mallopt(M_TRIM_THRESHOLD, -1))


def zeros_in_huge_pages(shape: Sequence[int], dtype: torch.dtype, device: torch.device | str = "cpu") -> Tensor:
    """torch.zeros for what is read again and again: on a CPU under Linux, large ones lie in huge pages.

    Looking up their addresses takes less time (docs/performance.md). They are not for what training allocates and
    frees: there they took 15 % more memory and saved no time.
    """
    size = dtype.itemsize * torch.Size(shape).numel()
    if torch.device(device).type == "cpu" and size >= HUGE_PAGE and hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError, OverflowError):  # no room: torch.zeros says so as it always does
            memory = mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            with contextlib.suppress(OSError):  # a kernel without them
                memory.madvise(mmap.MADV_HUGEPAGE)
            return torch.frombuffer(memory, dtype=dtype).view(*shape)
    return torch.zeros(shape, dtype=dtype, device=device)
