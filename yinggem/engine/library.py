"""The compiled engine: where it is, whether it can be used here, and the types of its functions.

It is an optional extension (pyproject.toml), built from engine.c when the package is installed where a C compiler is.
It has no Python in it, so it is opened with ctypes.
"""

import ctypes
import functools
import os
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import Any

VERSION = 5  # of its functions, as in engine.c
KERNELS = "YINGGEM_ENGINE_KERNELS"  # forces the kernels of one instruction set
LIBRARY = "YINGGEM_ENGINE_LIBRARY"  # another build of engine.c, such as one with sanitizers

MAX_NGRAM, MAX_ORDERS = 8, 16  # as in memory.h

POINTER, INT, LONG = ctypes.c_void_p, ctypes.c_int, ctypes.c_int64


class Shape(ctypes.Structure):
    """`ModelConfig`, as engine.c reads it."""

    _fields_ = [
        *((name, ctypes.c_int32) for name in ("vocab", "hidden", "layers", "heads", "kv_heads", "inner", "window")),
        *((name, ctypes.c_int32) for name in ("activation", "layer_norm", "qk_norm", "document_end")),
        ("eps", ctypes.c_float),
    ]


class SamplingSettings(ctypes.Structure):
    """`Sampling`, as engine.c reads it: a value that switches a filter off stands in the place of None."""

    _fields_ = [
        *((name, ctypes.c_float) for name in ("temperature", "top_p", "min_p", "typical_p", "repetition_penalty")),
        ("top_k", ctypes.c_int32),
        ("no_repeat_ngram_size", ctypes.c_int32),
        ("spared", ctypes.c_int32),
        ("repetition_window", ctypes.c_int64),
    ]


class Index(ctypes.Structure):
    """`NgramIndex`, as memory.h reads it; `marks` of the lengths from 2 on."""

    _fields_ = [
        *((name, POINTER) for name in ("ids", "suffixes", "firsts", "alone", "discounts")),
        ("marks", POINTER * MAX_NGRAM),
        ("size", LONG),
        *((name, ctypes.c_int32) for name in ("width", "vocab", "longest")),
    ]


class MixtureWeights(ctypes.Structure):
    """`Mixture`, as memory.h reads it, and which contexts are looked for in what was typed."""

    _fields_ = [
        *((name, POINTER) for name in ("hidden", "hidden_bias", "out", "out_bias", "direct")),
        *((name, ctypes.c_int32) for name in ("features", "inner", "sources", "order_count", "brief_count")),
        ("orders", ctypes.c_int32 * MAX_ORDERS),
        ("brief", ctypes.c_int32 * MAX_ORDERS),
        ("share", ctypes.c_double),
    ]


class Extras(ctypes.Structure):
    """What changes the logits before they are drawn from: a memory, or none, and ids that may not be drawn."""

    _fields_ = [("memory", POINTER), ("forbidden", POINTER), ("forbidden_count", ctypes.c_int32)]


FUNCTIONS = {
    "engine_kernels": (ctypes.c_char_p, [ctypes.c_char_p]),
    "engine_new": (POINTER, [ctypes.POINTER(Shape), POINTER, INT, INT, ctypes.c_char_p]),
    "engine_free": (None, [POINTER]),
    "engine_matrix": (INT, [POINTER, INT, INT, INT, INT, POINTER, POINTER, POINTER, POINTER, INT]),
    "engine_round": (INT, [INT, INT, INT, POINTER, POINTER, POINTER, POINTER]),
    "engine_norm": (INT, [POINTER, INT, INT, POINTER, POINTER]),
    "engine_reset": (INT, [POINTER, INT]),
    "engine_read": (INT, [POINTER, INT, POINTER, LONG, INT, POINTER]),
    "engine_step": (INT, [POINTER, POINTER, POINTER, INT, POINTER]),
    "engine_copy": (INT, [POINTER, INT, INT]),
    "engine_score": (INT, [POINTER, INT, POINTER, POINTER, INT, POINTER]),
    "engine_generate": (
        INT,
        [
            *(POINTER, INT, ctypes.POINTER(SamplingSettings), ctypes.POINTER(Extras), ctypes.c_uint64),
            *(POINTER, LONG, LONG, INT, POINTER),
        ],
    ),
    "memory_new": (POINTER, [ctypes.POINTER(Index), ctypes.POINTER(MixtureWeights), POINTER, LONG]),
    "memory_free": (None, [POINTER]),
    "memory_add": (INT, [POINTER, POINTER, LONG]),
    "memory_mix": (ctypes.POINTER(ctypes.c_double), [POINTER, POINTER]),
}


def library_path() -> str | None:
    """The file of the compiled engine; None where there is none."""
    known = (Path(__file__).with_name(f"_engine{suffix}") for suffix in EXTENSION_SUFFIXES)
    return os.environ.get(LIBRARY) or next((str(path) for path in known if path.is_file()), None)


@functools.cache
def open_library() -> ctypes.CDLL | str:
    """The compiled engine, or why there is none."""
    path = library_path()
    if path is None:
        return "it was not compiled when yinggem was installed; install a C compiler, then yinggem again"
    try:
        library = ctypes.CDLL(path)
        if library.engine_version() != VERSION:
            return f"{path} is of another version of yinggem; install yinggem again"
        for name, (result, arguments) in FUNCTIONS.items():
            function = getattr(library, name)
            function.restype, function.argtypes = result, arguments
    except (OSError, AttributeError) as error:
        return f"{path} cannot be used ({error}); install yinggem again"
    return library


def chosen_kernels() -> str | None:
    """The instruction set whose kernels run, here and now; None where there is no engine, or not the one forced."""
    library = open_library()
    found = None if isinstance(library, str) else library.engine_kernels(os.environ.get(KERNELS, "").encode() or None)
    return found.decode() if found else None


def library_refusal() -> str | None:
    """Why no model runs in C here; None where some can."""
    library = open_library()
    if isinstance(library, str):
        return library
    if chosen_kernels() is None:
        return f"this processor, or this build, has no kernels named {os.environ[KERNELS][:40]} ({KERNELS})"
    return None


def settings_of(sampling: Any, vocab_size: int, spared: int) -> SamplingSettings:
    """A `Sampling` (yinggem.inference.sampling, a later room), and an id that no penalty touches; -1 for none."""
    return SamplingSettings(
        temperature=sampling.temperature,
        top_p=1.0 if sampling.top_p is None else sampling.top_p,
        min_p=sampling.min_p or 0.0,
        typical_p=1.0 if sampling.typical_p is None else sampling.typical_p,
        repetition_penalty=sampling.repetition_penalty,
        top_k=min(sampling.top_k or 0, vocab_size),
        spared=spared,
        no_repeat_ngram_size=min(sampling.no_repeat_ngram_size, 2**31 - 1),
        repetition_window=-1 if sampling.repetition_window is None else min(sampling.repetition_window, 2**62),
    )
