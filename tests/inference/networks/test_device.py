"""Where a model runs: what can be used is chosen, what cannot is one sentence."""

import pytest
import torch

from yinggem.common.errors import UserError
from yinggem.inference.networks.device import choose_device


def test_the_fastest_there_is_is_chosen(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert choose_device(None) == choose_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize("name", ["abacus", "cuda:999", "", "cpu:x"])
def test_what_cannot_be_used_is_one_sentence(name):
    with pytest.raises(UserError, match="cannot be used on this machine") as caught:
        choose_device(name)
    assert repr(name) in str(caught.value)
