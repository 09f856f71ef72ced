"""Rows of torch, as the batcher needs them: each is a text of its own."""

import pytest
import torch

from yinggem.inference.networks.rows import TorchRows, rows_of
from yinggem.inference.networks.torch_network import TorchNetwork
from yinggem.model.config import ModelConfig
from yinggem.model.transformer import Transformer


@torch.inference_mode()
@pytest.mark.parametrize("changes", [{}, {"document_end": 9}, {"attention_window": None, "num_key_value_heads": 1}])
def test_rows_at_different_places_continue_as_the_whole_model_does(changes):
    torch.manual_seed(0)
    shape = {"num_key_value_heads": None, "intermediate_size": 24, "attention_window": 7} | changes
    model = Transformer(ModelConfig(50, 16, 2, 2, initializer_range=0.3, **shape)).eval()
    rows = rows_of(TorchNetwork(model))
    assert isinstance(rows, TorchRows) and rows.rows == 64
    texts = {0: [3, 1, 4, 1, 5], 1: [9, 2], 2: [6, 5, 3, 5, 8, 9, 7, 9, 3, 2]}

    def expected(row: int) -> torch.Tensor:
        return model(torch.tensor([texts[row]]))[0, -1]

    for row, ids in texts.items():
        rows.reset(row)
        rows.read(row, ids[:1])
        logits = rows.read(row, ids[1:])
        assert logits == pytest.approx(expected(row).numpy(), abs=1e-5)
    rows.copy(2, 3)
    texts[3] = [*texts[2]]
    for turn in range(12):  # past the window
        some = [3, 0] if turn % 2 else [2, 1, 0, 3]
        ids = [(row * 7 + turn) % 50 for row in some]
        for row, token in zip(some, ids, strict=True):
            texts[row].append(token)
        for row, one in zip(some, rows.step(some, ids), strict=True):
            assert one == pytest.approx(expected(row).numpy(), abs=1e-5)
    rows.reset(3)
    assert rows.read(3, [9, 2]) == pytest.approx(model(torch.tensor([[9, 2]]))[0, -1].numpy(), abs=1e-5)
    rows.close()
