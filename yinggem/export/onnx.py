"""--format onnx: a folder for onnxruntime and transformers.js, the network in onnx/model.onnx, in float32."""

import contextlib
import copy
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from yinggem.export.folder import check_replaceable, write_folder
from yinggem.export.formats import needed
from yinggem.export.hf import write_about
from yinggem.export.hf_config import EXPRESSIBLE
from yinggem.export.onnx_model import CachedTransformer
from yinggem.export.source import Source
from yinggem.model.config import ModelConfig

MODEL = Path("onnx", "model.onnx")  # where transformers.js looks
LARGEST = 1_500_000_000  # bytes of weights in one file: protobuf has a limit of 2 GiB
OPSET = 18


def export(source: Source, output: Path) -> None:
    """Write the folder.

    Raises:
        UserError: a package is missing; the folder holds something else; a setting of the model is not known here.
    """
    check_replaceable(output)
    source.require("onnx", EXPRESSIBLE, "--format safetensors")
    for package in ("onnx", "onnxscript"):
        needed(package, "onnx")

    def write(folder: Path) -> None:
        write_about(source, folder)
        (folder / MODEL).parent.mkdir()
        program = traced(CachedTransformer(copy.deepcopy(source.model).float().eval()))
        program.save(folder / MODEL, external_data=source.config.parameters * 4 > LARGEST)

    write_folder(output, write)


def traced(model: CachedTransformer) -> Any:
    """The ONNX program of a model, for any batch, length and past."""
    config = model.model.config
    names = cache_names(config)
    with torch.no_grad(), _quiet():
        return torch.onnx.export(
            model,
            _example(config),
            input_names=["input_ids", "attention_mask", "position_ids", *names],
            output_names=["logits", *(name.replace("past_key_values", "present") for name in names)],
            dynamic_shapes=_dynamic_shapes(config),
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )


def cache_names(config: ModelConfig) -> list[str]:
    """What the past of every layer is called."""
    return [f"past_key_values.{layer}.{kind}" for layer in range(config.num_hidden_layers) for kind in ("key", "value")]


def _example(config: ModelConfig) -> tuple[Any, ...]:
    """Arguments of some sizes, all different and none 1, which would be taken for a fixed one."""
    batch, length, past = 2, 3, 5
    kept = torch.zeros(batch, config.key_value_heads, past, config.head_size)
    tokens = torch.zeros(batch, length, dtype=torch.long)
    positions = torch.arange(past, past + length).repeat(batch, 1)
    mask = torch.ones(batch, past + length, dtype=torch.long)
    return tokens, mask, positions, [(kept.clone(), kept.clone()) for _ in range(config.num_hidden_layers)]


def _dynamic_shapes(config: ModelConfig) -> tuple[Any, ...]:
    tokens, kept = {0: "batch", 1: "sequence"}, {0: "batch", 2: "past_sequence"}
    return tokens, {0: "batch", 1: "total_sequence"}, tokens, [(kept, kept)] * config.num_hidden_layers


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter speaks of torchvision, of axes that share a name, and of its own deprecations."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
