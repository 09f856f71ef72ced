"""What an exported page holds beside its code, as one stream of bytes, which static/model.js reads in the same order.

uint32 N | N bytes of JSON | engine.wasm | uint8 (V), the lengths of all tokens | their bytes | arrays of weights
and, where it goes along, those of the memory
"""

import functools
import json
import re
from collections.abc import Iterator
from dataclasses import fields
from typing import Any

import numpy as np
import tiktoken
import torch

from yinggem.engine.build_wasm import WASM
from yinggem.engine.engine import SETTINGS, rotary_frequencies, shape_of
from yinggem.engine.weights import HEAD, matrices_of, norms_of
from yinggem.export.source import Source
from yinggem.inference.memory_step import MOST_SHARE
from yinggem.inference.sampling import Sampling
from yinggem.memory.ngram_memory import NgramMemory, mixed, short_orders, window_orders
from yinggem.model.config import ModelConfig
from yinggem.model.kernels.integer_matrix import Int8Matrix
from yinggem.serving.page_facts import model_facts, run_facts, setting_default, sliders
from yinggem.text.tokenizer import BPETokenizer, GPT2Tokenizer, Tokenizer

MOST_TOKENS = 10_000  # of a continuation
MOST_TEXTS = 8  # continuations of one setting
INT8, INT4 = 2, 3  # kinds of matrices, as in engine.c

Part = tuple[dict[str, Any], list[np.ndarray]]


def contents(source: Source) -> Iterator[bytes]:
    """The stream, piece by piece. In memory are the model and its rounded weights, a quarter of that."""
    wasm, tokens = WASM.read_bytes(), source.tokenizer.tokens
    lengths = np.array([len(token) for token in tokens], np.uint8)
    parts, memory = [*parts_of(source)], [memory_of(source.memory)] if source.memory else []
    size = sum(array.nbytes for _, arrays in (*parts, *memory) for array in arrays)
    size += len(wasm) + int(lengths.sum(dtype=np.int64))
    header = _header(source) | {"wasm": len(wasm), "vocabulary": len(tokens), "total": size}
    header |= {"parts": [about for about, _ in parts], "memory": memory[0][0] if memory else None}
    described = json.dumps(header, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()
    yield len(described).to_bytes(4, "little") + described + wasm + lengths.tobytes() + b"".join(tokens)
    for _, arrays in (*parts, *memory):
        yield from (array.tobytes() for array in arrays)


def memory_of(memory: NgramMemory) -> Part:
    """What counting knows: the sizes for page_knowledge in wasm.c, and the arrays as page_know numbers them."""
    index, mixture = memory.counts.index, memory.generating.parameters
    arrays = [
        *(index.ids, index.suffixes, index.firsts, index.alone, index.discounts),
        *(mixture[name] for name in ("hidden", "hidden_bias", "out", "out_bias", "direct")),
        *(
            np.array(numbers, np.int32)
            for numbers in (window_orders(memory.vocab_size), short_orders(memory.vocab_size))
        ),
        *(marks.words for marks in index.marks),
    ]
    sizes = [index.ids.itemsize, len(index.ids), index.vocab_size, index.longest]
    features, sources = mixed(memory.vocab_size)
    shape = [*sizes, features, len(mixture["hidden_bias"]), sources]
    return {"shape": shape, "sizes": [array.nbytes for array in arrays]}, arrays


def parts_of(source: Source) -> Iterator[Part]:
    """Every norm and matrix: which one for engine.c, and its arrays, weights before scale, zero and bias."""
    state, config = source.model.state_dict(), source.config
    for name, which, layer, _ in norms_of(config):
        arrays = [_floats(state[f"{name}.weight"]), _optional(state, f"{name}.bias")]
        yield _described(which, layer, arrays), [array for array in arrays if array is not None]
    for name, which, layer, _ in matrices_of(config):
        kept: list[np.ndarray | None] = [None, None, None]
        kind = INT4 if f"{name}.nibbles" in state else INT8
        if which != HEAD or not config.tie_word_embeddings:
            kept = _integers(state, name, kind)
        kept.append(_optional(state, f"{name}.bias"))
        about = _described(which, layer, kept) | {"kind": kind}
        yield about, [array for array in kept if array is not None]


def _described(which: int, layer: int, arrays: list[np.ndarray | None]) -> dict[str, Any]:
    return {"which": which, "layer": layer, "sizes": [0 if array is None else array.nbytes for array in arrays]}


def _integers(state: dict[str, torch.Tensor], name: str, kind: int) -> list[np.ndarray | None]:
    """Weights, scale and zero of a matrix: as they are kept, or rounded to 8 bits as `--quantize int8` does."""
    if kind == INT4:
        scales = (state[f"{name}.{end}"].view(torch.uint16).numpy() for end in ("scale", "zero"))
        return [state[f"{name}.nibbles"].numpy(), *scales]
    if f"{name}.integers" in state:
        return [state[f"{name}.integers"].numpy(), state[f"{name}.scale"].numpy(), None]
    matrix = Int8Matrix(state[f"{name}.weight"].float())
    return [matrix.integers.numpy(), matrix.scale.numpy(), None]


def _floats(tensor: torch.Tensor) -> np.ndarray:
    array: np.ndarray = tensor.detach().float().cpu().numpy()
    return array


def _optional(state: dict[str, torch.Tensor], name: str) -> np.ndarray | None:
    return _floats(state[name]) if name in state else None


def _header(source: Source) -> dict[str, Any]:
    tokenizer, config = source.tokenizer, source.config
    limits, has_memory = [*bounds(tokenizer.name, source.memory is not None)], source.memory is not None
    known = {one["name"] for one in limits}
    run = run_facts(source.run, source.path.stem)
    run["settings"] = [without_folders(word) for word in run["settings"]]
    return {
        "shape": _shape(config),
        "frequencies": rotary_frequencies(config).tolist(),
        "tokenizer": tokenizer_facts(tokenizer),
        "bounds": limits,
        "settings": {
            "sliders": [one for one in sliders(tokenizer.name, has_memory, MOST_TOKENS) if one["name"] in known]
        },
        "run": run | model_facts(config, tokenizer, source.step, "WebAssembly"),
    }


def _shape(config: ModelConfig) -> list[float]:
    """As the arguments of page_open in wasm.c, which are in the order of the struct."""
    shape = shape_of(config)
    return [getattr(shape, field[0]) for field in shape._fields_]


def tokenizer_facts(tokenizer: Tokenizer) -> dict[str, Any]:
    """What static/tokenizers.js needs beside the tokens; no text comes to GPT-2's own `<|endoftext|>` either."""
    marks = (tokenizer.end_id is not None or tokenizer.name == GPT2Tokenizer.name) + (tokenizer.turn_id is not None)
    pairs = tokenizer.name in (BPETokenizer.name, GPT2Tokenizer.name)
    return {
        "kind": tokenizer.name,
        "end": tokenizer.end_id,
        "turn": tokenizer.turn_id,
        "template": tokenizer.template,
        "ordinary": tokenizer.vocab_size - marks,
        "letters": ranges_of(r"\p{L}") if pairs else "",
        "digits": ranges_of(r"\p{N}") if pairs else "",
    }


@functools.cache
def ranges_of(pattern: str) -> str:
    r"""The characters that tiktoken takes for those of a class, as JavaScript writes them: \u{41}-\u{5a} ..."""
    bytes_alone = {bytes([byte]): byte for byte in range(256)}
    encoding = tiktoken.Encoding("class", pat_str=pattern, mergeable_ranks=bytes_alone, special_tokens={})
    every = "".join(chr(code) for code in range(0x110000) if not 0xD800 <= code < 0xE000)
    found = np.frombuffer(bytes(encoding.encode_ordinary(every)).decode().encode("utf-32-le"), "<u4").astype(np.int64)
    breaks = np.flatnonzero(np.diff(found) > 1)
    firsts, lasts = found[np.r_[0, breaks + 1]], found[np.r_[breaks, len(found) - 1]]
    return "".join(f"\\u{{{first:x}}}-\\u{{{last:x}}}" for first, last in zip(firsts, lasts, strict=True))


def bounds(tokenizer_name: str, has_memory: bool = False) -> Iterator[dict[str, Any]]:
    """What a request may hold: the checks of `Sampling`, as data, of the settings that the engine knows."""
    for one in (each for each in fields(Sampling) if each.name in SETTINGS):
        check, value = one.metadata["check"], setting_default(one.name, tokenizer_name)
        kept = {"low": 0, "high": None} | {
            name: check.keywords[name] for name in ("low", "high") if name in check.keywords
        }
        exclusive = "low" in check.keywords.get("excluded", "")
        yield {"name": one.name, **kept, "whole": one.metadata["whole"], "exclusive": exclusive, "value": value}
    if has_memory:
        yield {"name": "memory", "low": 0, "high": MOST_SHARE, "whole": False, "exclusive": False, "value": 1}
    whole = {"whole": True, "exclusive": False, "value": 1}
    yield {"name": "max_tokens", "low": 1, "high": MOST_TOKENS, **whole}
    yield {"name": "n", "low": 1, "high": MOST_TEXTS, **whole}


def without_folders(word: str) -> str:
    """A setting without the folders of the paths in it: where something lay is nobody else's business."""
    return re.sub(r"[^=,\[\]\s'\"]*[/\\](?=[^=,\[\]\s'\"])", "", word)
