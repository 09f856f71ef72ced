"""A network of bytes, too small to have learnt anything: what is tested does not depend on what it says."""

import pytest
import torch

from yinggem.model.config import ModelConfig
from yinggem.model.transformer import Transformer


@pytest.fixture(scope="module")
def model() -> Transformer:
    torch.manual_seed(0)
    return Transformer(ModelConfig(256, 16, 2, 2, None, 24, attention_window=5, initializer_range=0.3)).eval()
