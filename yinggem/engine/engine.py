"""Decoding in C: what `Transformer` computes, at the speed of memory, without importing torch."""

import ctypes
import os
import threading
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import fields
from typing import Any, Literal

import numpy as np

from yinggem.common.errors import UserError
from yinggem.common.processors import quota_cores
from yinggem.engine.library import Extras, Shape, chosen_kernels, library_refusal, open_library, settings_of
from yinggem.engine.memory import EngineMemory
from yinggem.engine.weights import STORAGES, put_weights
from yinggem.model.config import ModelConfig

Storage = Literal["float32", "bfloat16", "int8", "int4"]

MAX_ROWS = 64  # texts decoded side by side
BLOCK = 64  # tokens computed at once, as in engine.c
READ = 512  # ids handed over at once: Ctrl-C is heard between two calls
ONE_THREAD = 2_000_000  # weights below which a second thread costs more than it brings
ACTIVATIONS, NORMS = ("geglu", "swiglu", "relu2"), ("rms", "layer")  # in the order of engine.c
# What engine.c knows of `ModelConfig` and `Sampling`. A new option is added there too, or goes through torch.
OPTIONS = {
    *("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads"),
    *("intermediate_size", "attention_window", "rope_theta", "rms_norm_eps", "bias", "qk_norm"),
    *("tie_word_embeddings", "dropout", "attention_dropout", "initializer_range", "activation", "norm"),
    *("head_bias", "document_end"),
}
SETTINGS = {
    *("temperature", "top_k", "top_p", "min_p", "typical_p", "repetition_penalty", "repetition_window"),
    "no_repeat_ngram_size",
}

OK, NO_MEMORY, BAD_ARGUMENT, NOT_FINITE = range(4)  # Status of engine.c


def engine_refusal(config: ModelConfig) -> str | None:
    """Why a model of this configuration needs torch; None where the engine can run it."""
    if why := library_refusal():
        return why
    for option in fields(config):
        if option.name not in OPTIONS and getattr(config, option.name) != option.default:
            return f"it does not know model.{option.name}"
    for name, known in (("activation", ACTIVATIONS), ("norm", NORMS)):
        if getattr(config, name) not in known:
            return f"it does not know model.{name}={getattr(config, name)}"
    return None


def sampling_refusal(sampling: Any) -> str | None:
    """Why these settings need torch: a filter was added that the engine does not know, and it is on."""
    for setting in fields(sampling):
        if setting.name not in SETTINGS and getattr(sampling, setting.name) != setting.default:
            return f"it does not know the setting {setting.name}"
    return None


class Engine:
    """Decodes up to 64 texts, its rows, in C. A row is a text of any length; a new engine's rows are empty.

    One thread is inside at a time; others wait. It copies the weights, unless they are lent to it.

    Args:
        weights: the state dict of `Transformer` as float32, or that of a quantized one: integers, nibbles (uint8),
            scales, and zeros; those that are bfloat16 there as uint16, the upper half of a float32.
        storage: how matrices are kept. Rows of int4 that are not a multiple of 32 long are kept as int8.
        rows: how many texts.
        threads: None for the cores this process may use, or one where the model is small.
        lend: use matrices where they are, as far as they lie there as here, and copy them only for a longer text.
            Nobody may change them while it lives, nor the file that they are mapped from.

    Raises:
        UserError: there is no engine for this model (`engine_refusal`).
        ValueError, TypeError: weights are missing, or of another shape or type.
        MemoryError: there is not enough.
    """

    def __init__(
        self,
        config: ModelConfig,
        weights: Mapping[str, np.ndarray],
        *,
        storage: Storage = "float32",
        rows: int = 1,
        threads: int | None = None,
        lend: bool = False,
    ) -> None:
        self._handle: int | None = None
        library, refusal = open_library(), engine_refusal(config)
        if refusal or isinstance(library, str):
            raise UserError(f"The compiled engine cannot run this model: {refusal}.")
        if not 1 <= rows <= MAX_ROWS:
            raise ValueError(f"rows must be from 1 to {MAX_ROWS}, not {rows}.")
        if storage not in STORAGES:
            raise ValueError(f"storage must be one of {', '.join(STORAGES)}, not {storage!r}.")
        threads = threads or (1 if config.parameters < ONE_THREAD else quota_cores())
        self.config, self.rows, self.storage, self.threads = config, rows, storage, threads
        self.kernels = chosen_kernels() or ""
        self._library, self._lock, self._process = library, threading.Lock(), os.getpid()
        turns, shape = rotary_frequencies(config), shape_of(config)
        # One row more than asked for: `score` reads into it.
        self._handle = library.engine_new(
            ctypes.byref(shape), turns.ctypes.data, rows + 1, threads, self.kernels.encode()
        )
        if not self._handle:
            raise MemoryError("There is not enough memory for the engine.")
        self._lent = put_weights(library, self._handle, config, weights, storage, lend)

    def close(self) -> None:
        """Free its memory; nothing else can be called afterwards. A forked child leaves it to its parent."""
        if self._handle and self._process == os.getpid():
            with self._lock:
                handle, self._handle = self._handle, None
                self._library.engine_free(handle)

    def __del__(self) -> None:
        self.close()

    def reset(self, row: int) -> None:
        """Empty a row."""
        self._call("engine_reset", self._row(row))

    def read(self, row: int, ids: Sequence[int] | np.ndarray) -> np.ndarray:
        """Continue a row by ids (T,), T >= 1 -> logits (V,) float32 of what follows. It reads them in blocks."""
        known, logits = self._ids(ids), np.empty(self.config.vocab_size, np.float32)
        row = self._row(row)
        for start in range(0, len(known), READ):
            part, last = known[start : start + READ], start + READ >= len(known)
            self._call("engine_read", row, part.ctypes.data, len(part), int(last), logits.ctypes.data)
        return logits

    def step(self, rows: Sequence[int], ids: Sequence[int] | np.ndarray) -> np.ndarray:
        """Continue each of R different rows by one id -> logits (R, V) float32. A weight is read once for all."""
        known, places = self._ids(ids), np.array([self._row(row) for row in rows], np.int32)
        if len(known) != len(places) or len(set(places.tolist())) != len(places):
            raise ValueError("step needs different rows and one id for each.")
        logits = np.empty((len(known), self.config.vocab_size), np.float32)
        self._call("engine_step", places.ctypes.data, known.ctypes.data, len(known), logits.ctypes.data)
        return logits

    def copy(self, source: int, target: int) -> None:
        """Let row `target` be the text of row `source`: one prompt, many samples."""
        self._call("engine_copy", self._row(source), self._row(target))

    def score(self, ids: Sequence[int] | np.ndarray) -> np.ndarray:
        """Nats (T - 1,), float64, of every id after the first of ids (T,), each given those before it."""
        known, spare = self._ids(ids), self.rows
        nats = np.empty(len(known) - 1)
        self._call("engine_reset", spare)
        for start in range(0, len(nats), BLOCK):
            part, following = known[start : start + BLOCK][: len(nats) - start], known[start + 1 :]
            place = nats[start:].ctypes.data
            self._call("engine_score", spare, part.ctypes.data, following.ctypes.data, len(part), place)
        return nats

    def generate(
        self,
        row: int,
        sampling: Any,
        seed: int,
        history: Sequence[int] | np.ndarray,
        start: int,
        count: int,
        spared: int | None = None,
        memory: EngineMemory | None = None,
        forbidden: Sequence[int] | np.ndarray = (),
    ) -> list[int]:
        """Draw up to `count` more ids of a row, which has read at least one.

        The last id is computed when the row goes on, so a text that ends here costs nothing more.

        Args:
            sampling: a `Sampling` (yinggem.inference.sampling, a later room).
            seed: with the number of an id in its sample it determines the draw.
            history: ids that count as seen by penalty and n-gram filter, the prompt's among them.
            start: how many ids this sample has already.
            spared: an id that no repetition penalty touches.
            memory: mixes into the logits, and grows with the text.
            forbidden: ids that may not be drawn; where there are no others, nothing is.

        Raises:
            UserError: the model's output is not finite; or as `sampling_refusal`.
        """
        if refusal := sampling_refusal(sampling):
            raise UserError(f"The compiled engine cannot draw with these settings: {refusal}.")
        if count < 1 or start < 0 or (len(forbidden) and count > 1):
            raise ValueError(
                f"count must be at least 1, 1 with forbidden ids, and start at least 0, not {count}, {start}."
            )
        seen = self._ids(history) if len(history) else np.empty(0, np.int32)
        text, drawn = np.concatenate((seen, np.zeros(count, np.int32))), ctypes.c_int(0)
        settings = settings_of(sampling, self.config.vocab_size, -1 if spared is None else int(self._ids([spared])[0]))
        barred = self._ids(forbidden) if len(forbidden) else np.empty(0, np.int32)
        with memory.lock if memory else nullcontext():
            extras = Extras(memory.handle if memory else None, barred.ctypes.data, len(barred))
            self._call(
                "engine_generate", self._row(row), ctypes.byref(settings), ctypes.byref(extras), seed & (2**64 - 1),
                text.ctypes.data, len(seen), start, count, ctypes.byref(drawn),
            )  # fmt: skip
        found: list[int] = text[len(seen) : len(seen) + drawn.value].tolist()
        return found

    def _call(self, name: str, *arguments: Any) -> None:
        if self._process != os.getpid():
            raise RuntimeError("This engine was made before this process was forked, and its threads stayed behind; "
                               "make another one here.")  # fmt: skip
        with self._lock:
            if not self._handle:
                raise RuntimeError("This engine is closed.")
            status = getattr(self._library, name)(self._handle, *arguments)
        if status == NO_MEMORY:
            raise MemoryError("There is not enough memory to continue this text.")
        if status == NOT_FINITE:
            raise UserError("The model's output is NaN or infinite: its training diverged; use another checkpoint.")
        if status != OK:
            raise ValueError(f"{name.removeprefix('engine_')} was given what it cannot work with; has the row any ids?")

    def _row(self, row: int) -> int:
        if not 0 <= row < self.rows:
            raise ValueError(f"There is no row {row}; this engine has {self.rows}, from 0.")
        return int(row)

    def _ids(self, ids: Sequence[int] | np.ndarray) -> np.ndarray:
        """Ids (T,) as int32, T >= 1, all of the vocabulary."""
        known = np.asarray(ids)
        if known.ndim != 1 or not known.size or known.dtype.kind not in "iu":
            raise ValueError(
                f"ids must be whole numbers in a row, at least one; these are {known.dtype} {known.shape}."
            )
        if known.min() < 0 or known.max() >= self.config.vocab_size:
            raise ValueError(f"ids must be from 0 to {self.config.vocab_size - 1}; these are up to {known.max()}.")
        return np.ascontiguousarray(known, dtype=np.int32)


def rotary_frequencies(config: ModelConfig) -> np.ndarray:
    """theta ** (-2 i / d), (d / 2) float32, rounded where `yinggem.model.rope.rotary_angles` rounds."""
    exponents = np.arange(0, config.head_size, 2, dtype=np.float32) / np.float32(config.head_size)
    return np.power(np.float32(config.rope_theta), -exponents, dtype=np.float32)


def shape_of(config: ModelConfig) -> Shape:
    """A configuration as engine.c reads it."""
    return Shape(
        config.vocab_size, config.hidden_size, config.num_hidden_layers, config.num_attention_heads,
        config.key_value_heads, config.intermediate_size, config.attention_window or 0,
        ACTIVATIONS.index(config.activation), NORMS.index(config.norm), config.qk_norm,
        -1 if config.document_end is None else config.document_end, config.rms_norm_eps,
    )  # fmt: skip
