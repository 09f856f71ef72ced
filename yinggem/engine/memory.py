"""The memory beside the network in C: what `NgramMemory.distribution` says, for one text that grows."""

import ctypes
import os
import threading
from collections.abc import Sequence

import numpy as np

from yinggem.common.errors import UserError
from yinggem.engine.library import MAX_NGRAM, MAX_ORDERS, Index, MixtureWeights, library_refusal, open_library
from yinggem.memory.index import NgramIndex
from yinggem.memory.mixture import Mixture
from yinggem.memory.ngram_memory import READ_BACK, NgramMemory, mixed, short_orders, window_orders


def memory_refusal(memory: NgramMemory) -> str | None:
    """Why the memory is computed by numpy; None where the engine can do it."""
    if why := library_refusal():
        return why
    known = memory.counts.index.longest <= MAX_NGRAM and len(window_orders(memory.vocab_size)) <= MAX_ORDERS
    return None if known else "it does not know contexts of that many lengths"


class EngineMemory:
    """Mixes what counting knows into the predictions for one text.

    One thread is inside at a time; others wait. The arrays of the index are used where they are.

    Args:
        prompt: ids, the text so far.
        typed: (N,) ids that are counted beside the training text, the last READ_BACK of them; those from vocab_size on
            are not.
        share: 0 is the network alone, 1 the fitted mixture.

    Raises:
        UserError: as `memory_refusal`.
        ValueError, TypeError: index and mixture are not what they should be.
        MemoryError: there is not enough.
    """

    def __init__(self, memory: NgramMemory, prompt: Sequence[int], typed: np.ndarray, share: float) -> None:
        self._handle: int | None = None
        library, refusal = open_library(), memory_refusal(memory)
        if refusal or isinstance(library, str):
            raise UserError(f"The compiled engine cannot compute this memory: {refusal}.")
        self._library, self.lock, self._process = library, threading.Lock(), os.getpid()
        self.vocab_size = memory.vocab_size
        self._kept: list[np.ndarray] = []  # what C has addresses of
        index, mixture = self._index(memory.counts.index), self._mixture(memory.generating, share)
        counted = np.ascontiguousarray(np.minimum(typed[-READ_BACK:], self.vocab_size), dtype=np.int32)
        self._handle = library.memory_new(ctypes.byref(index), ctypes.byref(mixture), counted.ctypes.data, len(counted))
        if not self._handle:
            raise MemoryError("There is not enough memory for what counting knows, or it is damaged.")
        self.add(prompt)

    def close(self) -> None:
        """Free its memory; nothing else can be called afterwards. A forked child leaves it to its parent."""
        if self._handle and self._process == os.getpid():
            with self.lock:
                handle, self._handle = self._handle, None
                self._library.memory_free(handle)

    def __del__(self) -> None:
        self.close()

    @property
    def handle(self) -> int:
        """For the engine, which holds `lock` while it uses it."""
        if not self._handle or self._process != os.getpid():
            raise RuntimeError("This memory is closed, or was made before this process was forked.")
        return self._handle

    def add(self, ids: Sequence[int]) -> None:
        """The text goes on."""
        known = np.array(ids, np.int32)
        with self.lock:
            if self._library.memory_add(self.handle, known.ctypes.data, len(known)):
                raise ValueError(f"ids must be from 0 to {self.vocab_size - 1}; these are up to {known.max()}.")

    def mix(self, logits: np.ndarray) -> np.ndarray:
        """The network's logits (V,) float32 of the next token -> probabilities (V,) float64."""
        if logits.shape != (self.vocab_size,):
            raise ValueError(f"logits must be {self.vocab_size} numbers; these are {logits.shape}.")
        given = np.ascontiguousarray(logits, dtype=np.float32)
        with self.lock:
            found = self._library.memory_mix(self.handle, given.ctypes.data)
            probabilities: np.ndarray = np.ctypeslib.as_array(found, given.shape).copy()
        return probabilities

    def _index(self, index: NgramIndex) -> Index:
        size, vocab, longest = len(index.ids), index.vocab_size, index.longest
        if index.ids.dtype.kind != "u" or vocab != self.vocab_size:
            raise TypeError(f"the ids of an index must be unsigned and of one vocabulary; they are {index.ids.dtype}.")
        marks = (POINTERS * MAX_NGRAM)(*(
            self._address(marks.words, np.uint64, (len(marks.words), 8, 3 if length + 2 < longest else 2))
            for length, marks in enumerate(index.marks)
        ))  # fmt: skip
        if any(marks.size <= size for marks in index.marks) or len(index.marks) != longest - 1:
            raise ValueError("the marks of an index do not reach its end.")
        return Index(
            self._address(index.ids, index.ids.dtype, (size,)),
            self._address(index.suffixes, np.uint32, (size,)),
            self._address(index.firsts, np.uint32, (vocab + 1,)),
            self._address(index.alone, np.uint32, (vocab,)),
            self._address(index.discounts, np.float64, (longest, 4)),
            marks, size, index.ids.itemsize, vocab, longest,
        )  # fmt: skip

    def _mixture(self, mixture: Mixture, share: float) -> MixtureWeights:
        features, sources = mixed(self.vocab_size)
        inner = len(mixture.parameters["hidden_bias"])
        shapes = {
            "hidden": (features, inner), "hidden_bias": (inner,), "out": (inner, sources), "out_bias": (sources,),
            "direct": (features, sources),
        }  # fmt: skip
        addresses = (self._address(mixture.parameters[name], np.float64, shape) for name, shape in shapes.items())
        orders, brief = window_orders(self.vocab_size), short_orders(self.vocab_size)
        return MixtureWeights(
            *addresses, features, inner, sources, len(orders), len(brief), INTEGERS(*orders), INTEGERS(*brief), share
        )

    def _address(self, array: np.ndarray, dtype: np.typing.DTypeLike, shape: tuple[int, ...]) -> int:
        """Of an array that is kept as long as this object."""
        if array.dtype != dtype or array.shape != shape:
            raise TypeError(f"an array of an index is {array.dtype} {array.shape} instead of {dtype} {shape}.")
        self._kept.append(np.ascontiguousarray(array))
        return self._kept[-1].ctypes.data


POINTERS, INTEGERS = ctypes.c_void_p, ctypes.c_int32 * MAX_ORDERS
