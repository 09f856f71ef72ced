"""Memory for what decoding reads at every token."""

from pathlib import Path

import pytest
import torch

from yinggem.inference.checkpoint import load_model, save_model
from yinggem.model.config import ModelConfig
from yinggem.model.kernels.huge_pages import HUGE_PAGE, zeros_in_huge_pages
from yinggem.model.kv_cache import KVCache
from yinggem.model.transformer import Transformer
from yinggem.text.tokenizer import ByteTokenizer

KERNEL = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def asks_for_huge_pages(tensor: torch.Tensor) -> bool:
    """Whether the kernel was told to use them for the mapping that the tensor lies in."""
    inside = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        first = line.split()[0]
        if "-" in first:
            start, end = (int(part, 16) for part in first.split("-"))
            inside = start <= tensor.data_ptr() < end
        elif inside and first == "VmFlags:":
            return "hg" in line.split()
    raise AssertionError("the tensor lies nowhere")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int8])
@pytest.mark.parametrize("shape", [(), (0, 3), (3, 5), (2, 1 << 20, 3)])
def test_zeros_are_tensors_like_any_other(shape, dtype):
    made, other = zeros_in_huge_pages(shape, dtype), zeros_in_huge_pages(shape, dtype)
    assert torch.equal(made, torch.zeros(shape, dtype=dtype)) and made.is_contiguous() and made.dtype == dtype
    made.add_(1)
    assert not other.any() and torch.equal(made, torch.ones(shape, dtype=dtype))


def test_more_than_there_is_fails_as_in_torch():
    for make in (torch.zeros, zeros_in_huge_pages):
        with pytest.raises(RuntimeError, match="can't allocate memory"):
            make((10**6, 10**9), dtype=torch.float32)


@pytest.mark.skipif(not KERNEL.exists(), reason="this kernel has no transparent huge pages")
def test_weights_and_cache_of_decoding_lie_in_huge_pages(tmp_path):
    config = ModelConfig(vocab_size=256, hidden_size=1024, num_hidden_layers=1, num_attention_heads=4,
                         intermediate_size=1024, attention_window=1024)  # fmt: skip
    save_model(tmp_path / "model.ckpt", Transformer(config), ByteTokenizer())
    model, _ = load_model(tmp_path / "model.ckpt")
    large = [weights for weights in model.parameters() if weights.nbytes >= HUGE_PAGE]
    assert len(large) == 4 and all(map(asks_for_huge_pages, large))
    cache = KVCache(config, batch_size=1)
    assert asks_for_huge_pages(cache.keys) and asks_for_huge_pages(cache.values)
    assert not asks_for_huge_pages(torch.zeros(HUGE_PAGE))
