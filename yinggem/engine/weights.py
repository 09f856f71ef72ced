"""A state dict handed to the engine, every array of it checked before C sees its address."""

import ctypes
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from yinggem.engine.library import open_library
from yinggem.model.activations import ACTIVATIONS
from yinggem.model.config import ModelConfig
from yinggem.model.norms import NORMS
from yinggem.model.weights import GROUP, kind_of_matrix

STORAGES = ("float32", "bfloat16", "int8", "int4")  # in the order of `Kind` in engine.c
PAD = 64  # rows of a matrix that are a multiple so long lie in C as they do here
EMBEDDING, HEAD, QKV, OUTPUT, UP, DOWN = range(6)
LAST_NORM, ATTENTION_NORM, MLP_NORM, QUERY_NORM, KEY_NORM = range(5)

Part = tuple[str, int, int, tuple[int, ...]]  # name in the state dict, which one for engine.c, layer, shape


def matrices_of(config: ModelConfig) -> Iterator[Part]:
    """Every matrix, (rows, columns)."""
    hidden, inner = config.hidden_size, config.intermediate_size
    wide = hidden + 2 * config.key_value_heads * config.head_size
    gated = ACTIVATIONS[config.activation].gated
    up = ("mlp.gate_up", 2 * inner) if gated else ("mlp.up", inner)
    yield "embedding", EMBEDDING, 0, (config.vocab_size, hidden)
    yield "head", HEAD, 0, (config.vocab_size, hidden)
    for layer in range(config.num_hidden_layers):
        name = f"blocks.{layer}"
        yield f"{name}.attention.qkv", QKV, layer, (wide, hidden)
        yield f"{name}.attention.output", OUTPUT, layer, (hidden, hidden)
        yield f"{name}.{up[0]}", UP, layer, (up[1], hidden)
        yield f"{name}.mlp.down", DOWN, layer, (hidden, inner)


def norms_of(config: ModelConfig) -> Iterator[Part]:
    """Every norm, (size,)."""
    yield "norm", LAST_NORM, 0, (config.hidden_size,)
    for layer in range(config.num_hidden_layers):
        name = f"blocks.{layer}"
        yield f"{name}.attention_norm", ATTENTION_NORM, layer, (config.hidden_size,)
        yield f"{name}.mlp_norm", MLP_NORM, layer, (config.hidden_size,)
        if config.qk_norm:
            yield f"{name}.attention.query_norm", QUERY_NORM, layer, (config.head_size,)
            yield f"{name}.attention.key_norm", KEY_NORM, layer, (config.head_size,)


def put_weights(
    library: ctypes.CDLL, handle: int, config: ModelConfig, weights: Mapping[str, np.ndarray], storage: str, lend: bool
) -> list[np.ndarray]:
    """Give all weights to the engine; ValueError or TypeError where one is not what it has to be.

    Returns:
        Those that it may use where they are, if they are lent.
    """
    lent: list[np.ndarray] = []
    for name, which, layer, shape in norms_of(config):
        kept: list[np.ndarray | None] = [_array(weights, f"{name}.weight", shape, np.float32)]
        has_bias = config.bias and NORMS[config.norm].has_bias
        kept.append(_array(weights, f"{name}.bias", shape, np.float32) if has_bias else None)
        _check(library.engine_norm(handle, which, layer, *map(_address, kept)), name)
    for name, which, layer, shape in matrices_of(config):
        kind, given, arrays = _matrix(weights, name, shape, storage, which == HEAD and config.tie_word_embeddings)
        has_bias = config.head_has_bias if which == HEAD else config.bias and which != EMBEDDING
        arrays.append(_array(weights, f"{name}.bias", shape[:1], np.float32) if has_bias else None)
        fits = lend and kind == given and shape[1] % PAD == 0
        _check(library.engine_matrix(handle, which, layer, kind, given, *map(_address, arrays), int(fits)), name)
        lent += [array for array in arrays[:1] if fits and array is not None]
    return lent


def rounded(name: str, weights: np.ndarray, storage: str) -> dict[str, np.ndarray]:
    """A matrix (rows, columns) of finite float32 as the engine keeps it: int8, or int4 where its rows are of groups.

    Returns:
        {NAME.integers (rows, columns) int8, NAME.scale (rows,) float32}, or {NAME.nibbles (rows, columns / 2) uint8,
        NAME.scale and NAME.zero (rows, columns / GROUP) uint16}: with the bits of what `quantize` makes of it.
    """
    library = open_library()
    assert not isinstance(library, str), library
    rows, columns = weights.shape
    weights = _array({name: weights}, name, (rows, columns), np.float32)
    made: dict[str, np.ndarray]
    if kind_of_matrix(weights.shape, storage) == "int8":
        made = {"integers": np.empty((rows, columns), np.int8), "scale": np.empty(rows, np.float32)}
    else:
        groups = {end: np.empty((rows, columns // GROUP), np.uint16) for end in ("scale", "zero")}
        made = {"nibbles": np.empty((rows, columns // 2), np.uint8), **groups}
    kind, places = STORAGES.index("int4" if "zero" in made else "int8"), [array.ctypes.data for array in made.values()]
    _check(library.engine_round(kind, rows, columns, weights.ctypes.data, *places, *[None] * (3 - len(places))), name)
    return {f"{name}.{end}": array for end, array in made.items()}


def _matrix(
    weights: Mapping[str, np.ndarray], name: str, shape: tuple[int, ...], storage: str, tied: bool
) -> tuple[int, int, list[np.ndarray | None]]:
    """How a matrix is kept, how it is given, and [weights, scale, zero]."""
    rows, columns = shape
    get: Callable[..., Any] = lambda end, *rest: _array(weights, f"{name}.{end}", *rest)  # noqa: E731
    if tied:
        return 0, 0, [None, None, None]
    if f"{name}.integers" in weights:
        return 2, 2, [get("integers", shape, np.int8), get("scale", (rows,), np.float32), None]
    if f"{name}.nibbles" in weights:
        groups = rows, columns // GROUP
        return (
            3,
            3,
            [
                get("nibbles", (rows, columns // 2), np.uint8),
                get("scale", groups, np.uint16),
                get("zero", groups, np.uint16),
            ],
        )
    kind = kind_of_matrix(shape, storage) if storage == "int4" else storage
    return STORAGES.index(kind), 0, [get("weight", shape, np.float32), None, None]


def _array(weights: Mapping[str, np.ndarray], name: str, shape: tuple[int, ...], dtype: type) -> np.ndarray:
    if name not in weights:
        raise ValueError(f"The weights have no {name}.")
    array = weights[name]
    if not isinstance(array, np.ndarray) or array.dtype != dtype:
        raise TypeError(
            f"{name} must be a numpy array of {np.dtype(dtype)}, not {getattr(array, 'dtype', type(array))}."
        )
    if array.shape != shape:
        raise ValueError(f"{name} must be of shape {shape}, not {array.shape}.")
    return np.ascontiguousarray(array)


def _address(array: np.ndarray | None) -> int | None:
    return None if array is None else array.ctypes.data


def _check(status: int, name: str) -> None:
    if status == 1:
        raise MemoryError(f"There is not enough memory for {name}.")
    if status:
        raise ValueError(f"The engine does not take {name} as it is.")
