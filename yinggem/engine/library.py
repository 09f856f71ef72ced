"""The compiled engine: where it is, whether it can be used here, and the types of its functions.

It is an optional extension (pyproject.toml), built from engine.c when the package is installed where a C compiler is.
It has no Python in it, so it is opened with ctypes.
"""

import ctypes
import functools
import os
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

VERSION = 1  # of its functions, as in engine.c
KERNELS = "YINGGEM_ENGINE_KERNELS"  # forces the kernels of one instruction set
LIBRARY = "YINGGEM_ENGINE_LIBRARY"  # another build of engine.c, such as one with sanitizers

POINTER, INT, LONG = ctypes.c_void_p, ctypes.c_int, ctypes.c_int64


class Shape(ctypes.Structure):
    """`ModelConfig`, as engine.c reads it."""

    _fields_ = [
        *((name, ctypes.c_int32) for name in ("vocab", "hidden", "layers", "heads", "kv_heads", "inner", "window")),
        *((name, ctypes.c_int32) for name in ("activation", "layer_norm", "qk_norm")),
        ("eps", ctypes.c_float),
    ]


class SamplingSettings(ctypes.Structure):
    """`Sampling`, as engine.c reads it: a value that switches a filter off stands in the place of None."""

    _fields_ = [
        *((name, ctypes.c_float) for name in ("temperature", "top_p", "min_p", "typical_p", "repetition_penalty")),
        ("top_k", ctypes.c_int32),
        ("no_repeat_ngram_size", ctypes.c_int32),
        ("repetition_window", ctypes.c_int64),
    ]


FUNCTIONS = {
    "engine_kernels": (ctypes.c_char_p, [ctypes.c_char_p]),
    "engine_new": (POINTER, [ctypes.POINTER(Shape), POINTER, INT, INT, ctypes.c_char_p]),
    "engine_free": (None, [POINTER]),
    "engine_matrix": (INT, [POINTER, INT, INT, INT, INT, POINTER, POINTER, POINTER, POINTER]),
    "engine_norm": (INT, [POINTER, INT, INT, POINTER, POINTER]),
    "engine_reset": (INT, [POINTER, INT]),
    "engine_read": (INT, [POINTER, INT, POINTER, LONG, INT, POINTER]),
    "engine_step": (INT, [POINTER, POINTER, POINTER, INT, POINTER]),
    "engine_copy": (INT, [POINTER, INT, INT]),
    "engine_score": (INT, [POINTER, INT, POINTER, POINTER, INT, POINTER]),
    "engine_generate": (
        INT,
        [POINTER, INT, ctypes.POINTER(SamplingSettings), ctypes.c_uint64, POINTER, LONG, LONG, INT, POINTER],
    ),
}


@functools.cache
def open_library() -> ctypes.CDLL | str:
    """The compiled engine, or why there is none."""
    path = os.environ.get(LIBRARY) or next((str(one) for one in _candidates() if one.is_file()), None)
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


def chosen_kernels(library: ctypes.CDLL) -> str | None:
    """The instruction set whose kernels run, here and now; None where the forced one is missing."""
    found: bytes | None = library.engine_kernels(os.environ.get(KERNELS, "").encode() or None)
    return found.decode() if found else None


def _candidates() -> list[Path]:
    return [Path(__file__).with_name(f"_engine{suffix}") for suffix in EXTENSION_SUFFIXES]
