"""What is read without torch is the model that was saved; what is refused is tested in test_checkpoint.py."""

import numpy as np
import pytest
import torch

from yinggem.common.errors import UserError
from yinggem.inference.checkpoint import save_model
from yinggem.inference.files.stored_model import engine_weights, read_model
from yinggem.inference.files.stored_tensors import from_bfloat16
from yinggem.memory.ngram_memory import NgramMemory
from yinggem.model.config import ModelConfig
from yinggem.model.quantization import quantize
from yinggem.model.transformer import Transformer
from yinggem.text.tokenizer import ByteTokenizer

CONFIG = ModelConfig(256, 32, 2, 2, None, 40)


@pytest.mark.parametrize("kind", ["float32", "float16", "bfloat16", "float64", "int8", "int4"])
def test_the_numbers_are_those_of_the_saved_model(tmp_path, kind):
    model = Transformer(CONFIG)
    model = quantize(model, kind) if kind.startswith("int") else model.to(getattr(torch, kind))
    save_model(tmp_path / "a.ckpt", model, ByteTokenizer(), context_length=17)
    stored = read_model(tmp_path / "a.ckpt")
    assert stored.config == CONFIG and stored.tokenizer.name == "byte" and stored.entry["context_length"] == 17
    assert stored.quantization == (kind if kind.startswith("int") else None) and stored.memory is None
    found, expected = engine_weights(stored), model.state_dict()
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        array = found[name]
        if array.dtype == np.uint16:  # bfloat16, beside integers
            assert kind == "int4" and tensor.dtype == torch.bfloat16
            array = from_bfloat16(array)
        assert np.array_equal(array, tensor.float().numpy())
        assert array.dtype == np.float32 or not tensor.is_floating_point()


def test_a_memory_is_read_once_and_is_the_one_saved(tmp_path):
    memory = NgramMemory(np.frombuffer(b"Shall I compare thee" * 50, np.uint8), 256, cache_dir=tmp_path)
    save_model(tmp_path / "a.ckpt", Transformer(CONFIG), ByteTokenizer(), memory)
    stored = read_model(tmp_path / "a.ckpt")
    assert stored.memory is not None and stored.memory is stored.memory
    assert np.array_equal(stored.memory.ids, memory.ids)
    other = NgramMemory(memory.ids, 300, cache_dir=tmp_path)
    save_model(tmp_path / "b.ckpt", Transformer(CONFIG), ByteTokenizer(), other)
    with pytest.raises(UserError, match="memory of another tokenizer: 300 tokens for 256"):
        print(read_model(tmp_path / "b.ckpt").memory)
