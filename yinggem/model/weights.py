"""The weights of a model by name: the shapes that its architecture gives them, and the types of quantized ones.

Whatever reads a checkpoint holds it against this, with torch or without.
"""

import math
from collections.abc import Mapping

import numpy as np

from yinggem.common.errors import UserError
from yinggem.model.activations import ACTIVATIONS
from yinggem.model.config import QUANTIZATIONS, ModelConfig
from yinggem.model.norms import NORMS

Shape = tuple[int, ...]

BLOCK = 1 << 18  # numbers that are looked at together: what is found of them fits a cache
GROUP = 32  # columns of a row that share a scale in 4 bits
MIN_SCALE = float(np.finfo(np.float32).tiny)  # the least scale: rows of zeros have one too
MAX_SCALE = float(np.finfo(np.float32).max) / 128  # the largest: every weight is a finite number
MAX_ZERO = MAX_SCALE * 16  # the largest zero, for the same reason
SHARED = (".scale", ".zero")  # ends of names: numbers that many weights share


def weight_shapes(config: ModelConfig) -> dict[str, Shape]:
    """The entries of a `Transformer`'s state dict; matrices are (out, in)."""
    hidden, inner = config.hidden_size, config.intermediate_size
    projected = (config.num_attention_heads + 2 * config.key_value_heads) * config.head_size
    gated = ACTIVATIONS[config.activation].gated
    shapes: dict[str, Shape] = {"embedding.weight": (config.vocab_size, hidden)}
    for layer in range(config.num_hidden_layers):
        block = f"blocks.{layer}."
        shapes |= _norm(config, f"{block}attention_norm", hidden)
        shapes |= _linear(config, f"{block}attention.qkv", projected, hidden)
        shapes |= _linear(config, f"{block}attention.output", hidden, hidden)
        if config.qk_norm:
            for name in ("query_norm", "key_norm"):
                shapes |= _norm(config, f"{block}attention.{name}", config.head_size)
        shapes |= _norm(config, f"{block}mlp_norm", hidden)
        name, rows = ("gate_up", 2 * inner) if gated else ("up", inner)
        shapes |= _linear(config, f"{block}mlp.{name}", rows, hidden)
        shapes |= _linear(config, f"{block}mlp.down", hidden, inner)
    shapes |= _norm(config, "norm", hidden)
    if not config.tie_word_embeddings:  # else its matrix is the embedding's
        shapes["head.weight"] = config.vocab_size, hidden
    return shapes | ({"head.bias": (config.vocab_size,)} if config.head_has_bias else {})


def _linear(config: ModelConfig, name: str, rows: int, columns: int) -> dict[str, Shape]:
    bias: dict[str, Shape] = {f"{name}.bias": (rows,)} if config.bias else {}
    return {f"{name}.weight": (rows, columns), **bias}


def _norm(config: ModelConfig, name: str, size: int) -> dict[str, Shape]:
    bias: dict[str, Shape] = {f"{name}.bias": (size,)} if config.bias and NORMS[config.norm].has_bias else {}
    return {f"{name}.weight": (size,), **bias}


def quantized_entries(config: ModelConfig, kind: str) -> dict[str, tuple[Shape, str]]:
    """Shape and type of the entries of a quantized model's state dict."""
    entries: dict[str, tuple[Shape, str]] = {}
    for name, shape in weight_shapes(config).items():
        stem = name.removesuffix(".weight")
        if len(shape) == 1:
            entries[name] = shape, "float32"
        elif kind_of_matrix(shape, kind) == "int8":
            entries[f"{stem}.integers"], entries[f"{stem}.scale"] = (shape, "int8"), (shape[:1], "float32")
        else:
            rows, columns = shape
            entries[f"{stem}.nibbles"] = (rows, columns // 2), "uint8"
            for shared in SHARED:
                entries[stem + shared] = (rows, columns // GROUP), "bfloat16"
    return entries


def kind_of_matrix(shape: Shape, kind: str) -> str:
    """How a matrix is kept where the model is quantized as `kind`: rows that 32 does not divide keep 8 bits."""
    return "int8" if shape[1] % GROUP else kind


def count_weights(name: str, shape: Shape, kind: str | None) -> int:
    """How many weights an entry of a model's state dict makes."""
    if not kind:
        return math.prod(shape)
    return 0 if name.endswith(SHARED) else math.prod(shape) * (2 if name.endswith(".nibbles") else 1)


def makes_finite_weights(name: str, values: np.ndarray) -> bool:
    """Whether the weights that an entry of a quantized model's state dict makes are finite numbers."""
    if name.endswith(".scale"):
        return bool(((values >= MIN_SCALE) & (values <= MAX_SCALE)).all())
    if name.endswith(".zero"):
        return bool((np.abs(values) <= MAX_ZERO).all())
    return values.dtype.kind != "f" or are_finite(values)


def are_finite(values: np.ndarray) -> bool:
    """Whether all numbers are finite; it takes hardly any memory beside them, and reads them once."""
    numbers = values.reshape(-1)
    return all(np.isfinite(numbers[start : start + BLOCK]).all() for start in range(0, len(numbers), BLOCK))


def check_finite(weights: Mapping[str, np.ndarray]) -> None:
    """UserError where a weight is NaN or infinite."""
    for name, values in weights.items():
        if values.dtype.kind == "f" and not are_finite(values):
            raise diverged(name)


def diverged(name: str) -> UserError:
    """What is wrong with a matrix that holds numbers which are not finite."""
    return UserError(f"Some weights in {name} are NaN or infinite: training diverged; use another checkpoint.")


def check_quantization(kind: str | None, before: str | None = None) -> None:
    """UserError where `kind` is unknown, or weights that are kept as `before` cannot be made into it."""
    if kind not in (None, *QUANTIZATIONS):
        raise UserError(f"quantize must be one of {', '.join(QUANTIZATIONS)}, not {str(kind)[:40]!r}.")
    if kind and before not in (None, kind):
        raise UserError(f"The weights are {before} already; make {kind} from the checkpoint those were made from.")
