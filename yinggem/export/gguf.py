"""--format gguf: one file for llama.cpp, whose architecture `spark2_5` means the same as some of our models.

It has an attention gate that ours have not: a gate of zeros halves the attention's output, and the matrix after it is
doubled, which is exact. Its feed-forward layer is our GeGLU, its window is ours.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from yinggem.common.errors import UserError
from yinggem.common.files import check_file_replaceable, write_atomically
from yinggem.export.formats import needed
from yinggem.export.hf_config import EXPRESSIBLE, LONGEST
from yinggem.export.hf_tokenizer import byte_names, merges
from yinggem.export.source import Source, cannot_express
from yinggem.model.config import MAX_WINDOW, ModelConfig
from yinggem.text.bpe import END_OF_TEXT
from yinggem.text.tokenizer import Tokenizer

ARCHITECTURE = "spark2_5"
SUFFIX = ".gguf"
ONLY = {"bias": False, "head_has_bias": False, "qk_norm": False, "activation": "geglu", "norm": "rms"}
NO_MERGE = "\u0100\u0100 \u0100\u0100"  # of two tokens that no text begins with: an empty list of merges does not load
INSIDE = {"attention_norm": "attn_norm", "attention.qkv": "attn_qkv", "attention.output": "attn_output",
          "mlp_norm": "ffn_norm", "mlp.down": "ffn_down"}  # fmt: skip
OUTSIDE = {"embedding": "token_embd", "norm": "output_norm", "head": "output"}


def export(source: Source, output: Path) -> None:
    """Write the file, in float32.

    Raises:
        UserError: llama.cpp has no architecture for the model, or no tokenizer like its own; the package is missing.
    """
    source.require("gguf", EXPRESSIBLE, "--format safetensors")
    if output.suffix != SUFFIX:
        raise UserError(f"{output} must end in {SUFFIX}; write {output.with_suffix(SUFFIX)}.")
    for name, value in ONLY.items():
        if (found := getattr(source.config, name)) != value:
            raise cannot_express("gguf", f"model.{name.replace('has_', '')}={found}", "--format hf or onnx")
    if source.tokenizer.name == "char":  # it splits what it does not know into bytes, which are no tokens here
        raise cannot_express("gguf", "tokenizer=char", "--format hf")
    needed("gguf", "gguf")
    check_file_replaceable(output, ARCHITECTURE.encode(), "yinggem export")
    write_atomically(output, lambda file: _write(source, Path(file.name)))  # the library opens it by its name


def _write(source: Source, path: Path) -> None:
    from gguf import GGUFWriter

    writer = GGUFWriter(path, ARCHITECTURE)
    _describe(writer, source.config)
    _add_tokenizer(writer, source.tokenizer)
    for name, tensor in source.model.state_dict().items():
        for other, array in _renamed(name, tensor, source.config):
            writer.add_tensor(other, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _describe(writer: Any, config: ModelConfig) -> None:
    writer.add_file_type(0)  # all float32
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(LONGEST)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.key_value_heads)
    writer.add_key_length(config.head_size)
    writer.add_value_length(config.head_size)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_theta)
    writer.add_rope_dimension_count(config.head_size)
    writer.add_rope_dimension_count_swa(config.head_size)
    writer.add_key_length_swa(config.head_size)
    writer.add_value_length_swa(config.head_size)
    writer.add_sliding_window(config.attention_window or MAX_WINDOW)  # a model without any window does not load
    writer.add_sliding_window_pattern([True] * config.num_hidden_layers)


def _add_tokenizer(writer: Any, tokenizer: Tokenizer) -> None:
    """Byte-level BPE. llama.cpp wants a token that ends a text: GPT-2's own, or the byte 0, which is in no text."""
    tokens = tokenizer.tokens
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(byte_names(tokens))
    # Ordinary ones, <|endoftext|> too, but for the end of documents: a control token, which is not printed.
    writer.add_token_types([3 if number == tokenizer.end_id else 1 for number in range(len(tokens))])
    writer.add_token_merges([f"{left} {right}" for left, right in merges(tokenizer)] or [NO_MERGE])
    end = tokenizer.end_id
    if end is None:
        end = tokens.index(END_OF_TEXT.encode() if tokenizer.name == "gpt2" else b"\0")
    writer.add_bos_token_id(end)
    writer.add_eos_token_id(end)
    writer.add_add_bos_token(False)
    writer.add_add_eos_token(False)


def _renamed(name: str, tensor: Tensor, config: ModelConfig) -> Iterator[tuple[str, np.ndarray]]:
    """An entry of our state dict as theirs, and the gate that it needs."""
    array = tensor.detach().float().cpu().numpy()
    if not name.startswith("blocks."):
        yield f"{OUTSIDE[name.rpartition('.')[0]]}.weight", array
        return
    _, layer, inside = name.split(".", 2)
    part = inside.removesuffix(".weight")
    if part == "mlp.gate_up":
        yield from zip((f"blk.{layer}.ffn_gate.weight", f"blk.{layer}.ffn_up.weight"), np.split(array, 2), strict=True)
        return
    yield f"blk.{layer}.{INSIDE[part]}.weight", 2 * array if part == "attention.output" else array
    if part == "attention.output":
        yield f"blk.{layer}.attn_gate.weight", np.zeros((config.num_attention_heads, config.hidden_size), np.float32)
