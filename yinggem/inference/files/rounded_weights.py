"""Weights rounded to 8 or 4 bits when they are first wanted so, and kept in the user's cache.

The files are checked as checkpoints are, and hold what `yinggem quantize` would write of the model itself.
"""

import hashlib
import json
import logging
from pathlib import Path
from typing import BinaryIO

import numpy as np

from yinggem.common.cache_folder import default_cache_dir, private_file, usable_folder
from yinggem.common.errors import UserError
from yinggem.engine.weights import rounded
from yinggem.inference.files.safetensors_file import read_safetensors, write_arrays
from yinggem.inference.files.stored_model import PREFIX, StoredModel, checked_weights, engine_arrays
from yinggem.inference.files.weight_digest import FOLDER, digest_of, keep_digest
from yinggem.model.weights import check_finite, quantized_entries

MOST_BYTES = 2 << 30  # of all models together; what was used longest ago goes first
VERSION = 1  # of the files, and of how weights are rounded

log = logging.getLogger(__name__)


def rounded_weights(stored: StoredModel, kind: str) -> dict[str, np.ndarray]:
    """The weights of a checkpoint of floats as `yinggem.engine` takes those of a quantized one, from the cache.

    Where the cache cannot be used, they are made anew.

    Raises:
        UserError: the checkpoint is damaged; some weights are NaN or infinite.
    """
    digest = stored.digest or digest_of(stored.weights)
    entry = {"made_of": digest, "quantization": kind, "version": VERSION}
    name = hashlib.sha256(json.dumps(entry).encode()).hexdigest()

    def build(file: BinaryIO) -> None:
        types = {name: dtype for name, (_, dtype) in quantized_entries(stored.config, kind).items()}
        # Matrices first: their rows begin where a processor reads best.
        made = sorted(round_all(stored, kind).items(), key=lambda item: item[1].itemsize)
        arrays = {PREFIX + name: (types[name], array) for name, array in made}
        write_arrays(file, arrays, {"yinggem": json.dumps(entry)})

    def read(path: Path) -> dict[str, np.ndarray] | None:
        try:
            content = read_safetensors(path)
            weights = checked_weights(path, content["state_dict"], stored.config, kind)
        except UserError:
            return None
        return engine_arrays(weights) if content["yinggem"] == entry else None

    try:
        folder = usable_folder(default_cache_dir() / FOLDER)
        weights = private_file(folder / f"{name}.weights", build, read, MOST_BYTES)
        if stored.file and not stored.digest:
            keep_digest(stored.path, stored.file, digest)
        return weights
    except UserError as error:
        made = round_all(stored, kind)  # which fails as before, if it is the weights
        log.warning("The rounded weights are not kept in the cache. %s", error)
        return made


def round_all(stored: StoredModel, kind: str) -> dict[str, np.ndarray]:
    """All weights of a checkpoint of floats, the matrices among them rounded; UserError as `rounded_weights`."""
    made: dict[str, np.ndarray] = {}
    for name, tensor in stored.weights.items():
        numbers = tensor.numbers().astype(np.float32, copy=False)
        check_finite({name: numbers})
        made |= rounded(name.removesuffix(".weight"), numbers, kind) if numbers.ndim == 2 else {name: numbers}
    return made
