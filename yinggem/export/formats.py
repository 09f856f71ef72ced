"""The formats of `yinggem export --format NAME`: a new one is a module of this room and its entry here."""

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from yinggem.common.errors import UserError
from yinggem.export.source import Source


class Format(NamedTuple):
    """How a model leaves.

    Attributes:
        module: its function `export(source, output)` writes a file or folder, whole or not at all.
        reader: what reads it, for --help.
        holds_memory: whether it has a place for a memory.
    """

    module: str
    reader: str
    holds_memory: bool = False

    @property
    def export(self) -> Callable[[Source, Path], None]:
        """The function; what it needs is imported now."""
        found: Callable[[Source, Path], None] = importlib.import_module(f"yinggem.export.{self.module}").export
        return found


FORMATS = {
    "hf": Format("hf", "transformers, from a folder"),
    "gguf": Format("gguf", "llama.cpp, without QK-norm and biases"),
    "onnx": Format("onnx", "onnxruntime and transformers.js, from a folder"),
    "html": Format(
        "html.file", "a browser: the page of yinggem serve and the model in one file, without a network", True
    ),
    "safetensors": Format("safetensors", "yinggem generate, without pickles", holds_memory=True),
}


def needed(package: str, format_name: str) -> None:
    """UserError where a package is missing that a format is written with."""
    try:
        importlib.import_module(package)
    except ImportError:
        raise UserError(
            f"--format {format_name} needs the package {package}; pip install 'yinggem[{format_name}]'."
        ) from None
