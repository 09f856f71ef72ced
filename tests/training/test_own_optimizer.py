"""An optimizer and a schedule from outside the repository: a module in the folder where one works."""

import sys

import pytest
from running import SMALL, TEXT, here, same

from yinggem.inference.checkpoint import read_checkpoint

MODULE = '''
import torch
from torch.optim.lr_scheduler import ExponentialLR


class Lion(torch.optim.Optimizer):
    """The sign of a momentum (Chen et al. 2023); decays by default."""

    def __init__(self, params, lr=1e-3, betas=(0.9, 0.99), weight_decay=0.1):
        super().__init__(params, {"lr": lr, "betas": tuple(betas), "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure=None):
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            one, two = group["betas"]
            for p in group["params"]:
                if p.grad is None:
                    continue
                momentum = self.state[p].setdefault("momentum", torch.zeros_like(p))
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.sub_(group["lr"] * torch.sign(momentum * one + p.grad * (1 - one)))
                momentum.mul_(two).add_(p.grad, alpha=1 - two)
        return loss


class Unnamed(Lion):
    """Goes through its parameters itself, and knows nothing of names."""

    def __init__(self, params, **options):
        for group in params:
            for p in group["params"]:
                assert p.requires_grad
                if not isinstance(p, torch.Tensor):
                    raise TypeError("params must be tensors")
        super().__init__(params, **options)


def halving(optimizer, every):
    return torch.optim.lr_scheduler.StepLR(optimizer, every, gamma=0.5)
'''


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder of one's own with a text and the module."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    (tmp_path / "own.txt").write_text(TEXT)
    (tmp_path / "mylab.py").write_text(MODULE)
    yield tmp_path
    sys.modules.pop("mylab", None)


def chosen(optimizer):
    optimizer_words = ["optimizer=adamw", f"optimizer._target_=mylab.{optimizer}", "~optimizer.eps"]
    schedule = [
        "scheduler=constant",
        "scheduler._target_=mylab.halving",
        "~scheduler.warmup_steps",
        "+scheduler.every=6",
    ]
    return [*SMALL, "data.path=own.txt", *optimizer_words, *schedule, "callbacks.last.every_n_steps=7"]


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["Lion", "Unnamed"])
def test_it_trains_decays_matrices_alone_and_goes_on_with_the_same_bits(place, optimizer):
    words = chosen(optimizer)
    straight = here(*words, "outputs=straight")
    assert straight.status == 0, straight
    first = here(*words, "trainer.max_steps=8", "outputs=stopped")
    assert first.status == 0, first
    (folder,) = place.glob("stopped/*/*/")
    done = here(f"ckpt_path={folder}", "trainer.max_steps=20")
    assert done.status == 0, done
    (other,) = place.glob("straight/*/*/")
    one, two = (read_checkpoint(run / "checkpoints" / "last.ckpt") for run in (other, folder))
    assert same(one["state_dict"], two["state_dict"]) and same(one["optimizer_states"], two["optimizer_states"])
    assert [group["weight_decay"] for group in one["optimizer_states"][0]["param_groups"]] == [0.1, 0.0]
    assert {group["lr"] for group in one["optimizer_states"][0]["param_groups"]} == {0.001 * 0.5**3}


@pytest.mark.slow
def test_its_settings_can_be_changed_on_continuing(place):
    first = here(*chosen("Lion"), "trainer.max_steps=8")
    assert first.status == 0, first
    done = here("ckpt_path=last", "trainer.max_steps=12", "optimizer.lr=0.01", "optimizer.weight_decay=0.3")
    assert done.status == 0, done
    (folder,) = place.glob("outputs/*/*/")
    groups = read_checkpoint(folder / "checkpoints" / "last.ckpt")["optimizer_states"][0]["param_groups"]
    assert [group["weight_decay"] for group in groups] == [0.3, 0.0]
    assert {group["lr"] for group in groups} == {0.01 * 0.5**2}
