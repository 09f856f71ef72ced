"""Tensors as a file holds them, for whoever reads one without torch."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np


@dataclass(eq=False)
class Storage:
    """The numbers of some tensors, as the file holds them.

    Attributes:
        unread: (N,); bfloat16 as int16. Only size and type of it are certain.
        check: compares the numbers with their checksum, where that was put off until they are used; else None.
    """

    dtype: str
    unread: np.ndarray
    check: Callable[[], None] | None = None

    @cached_property
    def values(self) -> np.ndarray:
        """(N,) the numbers; UserError where the file is damaged."""
        if self.check:
            self.check()
        return self.unread


@dataclass(frozen=True, eq=False)
class StoredTensor:
    """A tensor in a file: a view of a storage, in which it lies for sure.

    Attributes:
        offset, stride: in numbers.
    """

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    @property
    def dtype(self) -> str:
        """As torch names it, without "torch."."""
        return self.storage.dtype

    @property
    def nbytes(self) -> int:
        """Of its numbers."""
        return math.prod(self.shape) * self.storage.unread.itemsize

    @property
    def is_contiguous(self) -> bool:
        """Whether the numbers lie one behind the other."""
        expected, right = 1, True
        for size, step in zip(reversed(self.shape), reversed(self.stride), strict=True):
            right &= size == 1 or step == expected
            expected *= size
        return right or not expected

    @property
    def bits(self) -> np.ndarray:
        """(*shape) in the storage's memory, which is that of the file; bfloat16 as int16. Only of contiguous ones."""
        count = math.prod(self.shape)
        return self.storage.values[self.offset : self.offset + count].reshape(self.shape)

    def numbers(self) -> np.ndarray:
        """`bits` as numbers: bfloat16 becomes float32, which is a copy."""
        return from_bfloat16(self.bits) if self.dtype == "bfloat16" else self.bits


def from_bfloat16(bits: np.ndarray) -> np.ndarray:
    """int16 with the bits of bfloat16 -> float32, exactly: the same bits in the upper half."""
    return (bits.astype(np.uint16, copy=False).astype(np.uint32) << 16).view(np.float32)
