"""Optimizers against torch's own and against their formulas."""

import math
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

from yinggem.common.errors import UserError
from yinggem.model.config import ModelConfig
from yinggem.model.transformer import Transformer
from yinggem.training.optimizers.adafactor import LARGE, Adafactor
from yinggem.training.optimizers.building import make_optimizer, make_schedule, parameter_groups
from yinggem.training.optimizers.muon import Muon, MuonAdamW, orthogonalized
from yinggem.training.schedules import constant, trapezoid

SHAPE: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}


def small_model(bias: bool = True) -> Transformer:
    torch.manual_seed(0)
    return Transformer(ModelConfig(vocab_size=20, attention_window=4, bias=bias, **SHAPE))


def give_gradients(model: nn.Module, step: int) -> None:
    generator = torch.Generator().manual_seed(step)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)


def named(model: nn.Module) -> list:
    return parameter_groups(model, 0.0)


def large_and_small(step: int) -> list[torch.Tensor]:
    """A matrix of several blocks, the last one short, with rows never or hardly seen; a small matrix; a vector."""
    generator = torch.Generator().manual_seed(step)
    shapes = (2 * LARGE // 1000 + 7, 1000), (30, 20), (50,)
    values = [torch.randn(shape, generator=generator) for shape in shapes]
    values[0][:5] = 0
    values[0][5:10] *= 1e-8
    return values


@pytest.mark.parametrize(
    "options", [{}, {"weight_decay": 0.1}, {"eps": (1e-15, 1e-3), "d": 1.5}, {"maximize": True, "beta2_decay": -0.5}]
)
def test_adafactor_is_torchs_whatever_the_size(options):
    """Step for step; and either continues from the state of the other."""
    ours, theirs = ([nn.Parameter(value) for value in large_and_small(0)] for _ in range(2))
    optimizer, reference = Adafactor(ours, lr=0.03, **options), torch.optim.Adafactor(theirs, lr=0.03, **options)
    for step in range(1, 7):
        for p, q, grad in zip(ours, theirs, large_and_small(step), strict=True):
            p.grad, q.grad = grad, grad.clone()
        optimizer.step(), reference.step()
        for p, q in zip(ours, theirs, strict=True):
            torch.testing.assert_close(p, q, rtol=1e-5, atol=3e-6)  # six roundings of weights as large as 5
        if step == 3:
            states = optimizer.state_dict(), reference.state_dict()
            optimizer.load_state_dict(states[1]), reference.load_state_dict(states[0])
    assert all(p.grad is not None for p in ours)


def test_muon_takes_the_matrices_of_the_blocks_and_adamw_the_rest():
    """Step for step what torch's two optimizers do on the two parts, torch's Muon to bfloat16's three digits."""
    ours, theirs = small_model(), small_model()
    optimizer = MuonAdamW(named(ours), lr=0.02, momentum=0.9, weight_decay=0.1, adamw_lr=0.003)
    blocks = [p for name, p in theirs.named_parameters() if name.startswith("blocks.") and p.ndim == 2]
    others = [p for name, p in theirs.named_parameters() if not (name.startswith("blocks.") and p.ndim == 2)]
    muon = torch.optim.Muon(blocks, lr=0.02, momentum=0.9, weight_decay=0.1)
    adamw = torch.optim.AdamW(others, lr=0.003, betas=(0.9, 0.95), weight_decay=0)
    for step in range(4):
        give_gradients(ours, step)
        give_gradients(theirs, step)
        optimizer.step(), muon.step(), adamw.step()
    assert len(blocks) == 2 * sum(p.ndim == 2 for p in ours.blocks[0].parameters()) and blocks and others
    begin, chosen = small_model(), {id(p) for p in blocks}
    for start, one, other in zip(begin.parameters(), ours.parameters(), theirs.parameters(), strict=True):
        if id(other) in chosen:
            assert (one - other).norm() < 0.03 * (other - start).norm()
        else:
            assert torch.equal(one, other)


@pytest.mark.parametrize("shape", [(3, 8, 8), (2, 6, 20), (2, 20, 6), (1, 1, 5)])
def test_newton_schulz_does_to_the_singular_values_what_its_polynomial_does(shape):
    """The matrices against a singular value decomposition in float64."""
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    a, b, c = coefficients = (3.4445, -4.7750, 2.0315)
    left, values, right = torch.linalg.svd(matrices.double(), full_matrices=False)
    values = values / values.norm(dim=-1, keepdim=True)
    for _ in range(5):
        values = a * values + b * values**3 + c * values**5
    expected = left * values[:, None] @ right
    torch.testing.assert_close(orthogonalized(matrices, coefficients, 5).double(), expected, rtol=0, atol=2e-4)


def test_a_muon_step_is_the_formula():
    """Momentum, Nesterov, decay and the scale of a tall matrix, in float64 from the paper; a gradient of zeros."""
    torch.manual_seed(0)
    tall, still = nn.Parameter(torch.randn(12, 3)), nn.Parameter(torch.ones(3, 3))
    optimizer = Muon([tall, still], lr=0.1, momentum=0.9, weight_decay=0.5)
    expected, buffer = tall.detach().double(), torch.zeros(12, 3, dtype=torch.float64)
    for _ in range(3):
        tall.grad, still.grad = torch.randn(12, 3), torch.zeros(3, 3)
        optimizer.step()
        grad = tall.grad.double()
        buffer = 0.9 * buffer + 0.1 * grad
        update = orthogonalized((0.1 * grad + 0.9 * buffer)[None], (3.4445, -4.7750, 2.0315), 5)[0]
        expected = expected * (1 - 0.1 * 0.5) - 0.1 * math.sqrt(12 / 3) * update
    torch.testing.assert_close(tall.detach().double(), expected, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(still.detach(), torch.full((3, 3), 0.95**3))


def test_a_restored_muon_goes_on_with_the_same_bits(tmp_path):
    straight, stopped = small_model(), small_model()
    one, other = MuonAdamW(named(straight)), MuonAdamW(named(stopped))
    for step in range(3):
        give_gradients(straight, step)
        give_gradients(stopped, step)
        one.step(), other.step()
    torch.save(other.state_dict(), tmp_path / "state.pt")
    other = MuonAdamW(named(stopped))
    other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    for step in range(3, 6):
        give_gradients(straight, step)
        give_gradients(stopped, step)
        one.step(), other.step()
    assert all(torch.equal(a, b) for a, b in zip(straight.parameters(), stopped.parameters(), strict=True))


def test_a_schedule_scales_both_rates_of_muon_and_after_a_restore():
    model = small_model()
    optimizer = MuonAdamW(named(model), lr=0.02, adamw_lr=0.003)
    schedule = trapezoid(optimizer, total_steps=10, decay_fraction=1.0)
    optimizer.load_state_dict(optimizer.state_dict())
    give_gradients(model, 0)
    for _ in range(5):
        optimizer.step()
        schedule.step()
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.01, 0.0015])
    assert optimizer.muon.param_groups[0]["lr"] == pytest.approx(0.01)
    assert optimizer.adamw.param_groups[0]["lr"] == pytest.approx(0.0015)


def test_only_matrices_decay():
    model = small_model()
    decaying, constant_ones = parameter_groups(model, 0.1)
    assert all(p.ndim >= 2 for _, p in decaying["params"]) and "weight_decay" not in decaying
    assert all(p.ndim < 2 for _, p in constant_ones["params"]) and constant_ones["weight_decay"] == 0
    assert len(decaying["params"]) + len(constant_ones["params"]) == len(list(model.parameters()))
    assert len(parameter_groups(small_model(bias=False), 0.0)) == 1


def test_the_reference_optimizer_is_adafactor_with_relative_steps():
    """torch's Adafactor under that schedule against the paper's, as transformers has it."""
    adafactor = pytest.importorskip("transformers.optimization").Adafactor
    ours, theirs = small_model(), small_model()
    make = partial(torch.optim.Adafactor, lr=0.01, eps=(1e-15, 1e-3), beta2_decay=-0.8, d=1.0, weight_decay=0.0)
    optimizer = make_optimizer(make, ours)
    schedule = make_schedule(partial(constant, warmup_steps=10_000), optimizer, 100)
    other = adafactor(theirs.parameters(), relative_step=True, warmup_init=True, scale_parameter=True, lr=None)
    begin = [p.detach().clone() for p in ours.parameters()]
    for step in range(5):
        give_gradients(ours, step)
        give_gradients(theirs, step)
        optimizer.step(), schedule.step(), other.step()
    for name, start, one, two in zip(
        dict(ours.named_parameters()), begin, ours.parameters(), theirs.parameters(), strict=True
    ):
        torch.testing.assert_close(one - start, two - start, rtol=2e-2, atol=1e-9, msg=partial("{}: {}".format, name))


def test_values_that_make_no_optimizer_are_named():
    with pytest.raises(UserError, match=r"optimizer does not take optimizer\.lr=-1\.0: "):
        make_optimizer(partial(torch.optim.AdamW, lr=-1.0), small_model())
    with pytest.raises(UserError, match=r"does not take optimizer\.lr=-1\.0: "):  # and the one that is to blame alone
        make_optimizer(partial(torch.optim.AdamW, betas=(0.9, 0.95), lr=-1.0, eps=1e-8), small_model())
    with pytest.raises(UserError, match=r"does not take optimizer\.lr=-1\.0, optimizer\.eps=-2\.0: "):
        make_optimizer(partial(torch.optim.AdamW, lr=-1.0, eps=-2.0), small_model())
