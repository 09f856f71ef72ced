"""What cannot fit is refused before it is allocated; what can is not."""

import pytest
import torch

from yinggem.common.errors import UserError
from yinggem.model.config import ModelConfig
from yinggem.model.transformer import Transformer
from yinggem.training.memory_limit import MOMENTS, available_memory, check_memory, floats_per_token

CONFIG = ModelConfig(vocab_size=100, hidden_size=32, num_hidden_layers=3, num_attention_heads=4, intermediate_size=48)


def weights_of(config: ModelConfig) -> int:
    """Bytes of all weights of a real model."""
    with torch.device("meta"):
        return sum(weights.numel() * 4 for weights in Transformer(config).parameters())


@pytest.mark.parametrize("name", ["AdamW", "SGD", "MuonAdamW", "mylab.Lion"])
def test_the_bound_is_weights_gradients_moments_and_activations(name):
    """To the byte: one less is refused, with the figures in the sentence."""
    needed = weights_of(CONFIG) * (2 + MOMENTS.get(name, 0)) + 10 * floats_per_token(CONFIG) * 4
    check_memory(CONFIG, 10, name, available=needed)
    with pytest.raises(UserError, match=r"at least 0\.0 GB of memory .* lower data\.batch_size"):
        check_memory(CONFIG, 10, name, available=needed - 1)


def test_the_moments_are_those_that_torchs_optimizers_keep():
    for name in ("AdamW", "SGD"):
        weights = torch.nn.Parameter(torch.ones(100, 100))
        optimizer = getattr(torch.optim, name)([weights], lr=0.1)
        weights.sum().backward()
        optimizer.step()
        kept = sum(value.numel() for value in optimizer.state[weights].values() if torch.is_tensor(value))
        assert kept // weights.numel() == MOMENTS[name]


def test_it_is_a_lower_bound_of_what_the_backward_pass_keeps():
    """Counted by autograd itself."""
    model, kept = Transformer(CONFIG).train(), dict[int, int]()

    def pack(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model(torch.randint(100, (2, 64)))
    own = {weights.untyped_storage().data_ptr() for weights in model.parameters()}
    activations = sum(size for place, size in kept.items() if place not in own)
    assert 128 * floats_per_token(CONFIG) * 4 <= activations


def test_where_the_system_does_not_say_nothing_is_refused(monkeypatch):
    monkeypatch.setattr("yinggem.training.memory_limit.available_memory", lambda: None)
    check_memory(ModelConfig(10**6, 10**5, 10, 100), 10**6, "AdamW")


def test_this_machine_has_some_memory_left():
    free = available_memory()
    assert free is None or 2**20 < free < 2**50
