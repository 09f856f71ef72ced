"""The chunked loss against the plain one and finite differences."""

from typing import Any

import pytest
import torch
from references import cross_entropy_of_all_logits

from yinggem.model.kernels import chunked_cross_entropy as kernel
from yinggem.model.loss import next_token_loss


@pytest.fixture(params=["one chunk", "several chunks"], autouse=True)
def chunking(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "several chunks":
        monkeypatch.setattr(kernel, "CHUNK_ELEMENTS", 4 * 128)  # 4 rows of 97 padded ids


def inputs(bias: bool = True, dtype: torch.dtype = torch.float32) -> tuple[Any, ...]:
    torch.manual_seed(0)
    hidden, weight = (torch.randn(shape, dtype=dtype).requires_grad_() for shape in ((2, 9, 16), (97, 16)))
    offset = torch.randn(97, dtype=dtype).requires_grad_() if bias else None
    return hidden, weight, torch.randint(97, (2, 9)), offset


def with_gradients(function: Any, arguments: tuple[Any, ...], reduction: str) -> list[torch.Tensor]:
    value = function(*arguments, reduction)
    leaves = [x for x in arguments if x is not None and x.requires_grad]
    return [value, *torch.autograd.grad(3 * value, leaves)]


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("bias", [False, True])
def test_value_and_gradients_are_the_plain_loss(bias: bool, reduction: str) -> None:
    ours = with_gradients(next_token_loss, inputs(bias), reduction)
    plain = with_gradients(cross_entropy_of_all_logits, inputs(bias), reduction)
    for left, right in zip(ours, plain, strict=True):
        torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_gradients_are_finite_differences_in_float64(reduction: str) -> None:
    """Along every seventh coordinate. (torch's gradcheck walks one graph twice, which this loss refuses.)"""
    hidden, weight, targets, bias = inputs(dtype=torch.float64)
    _, *gradients = with_gradients(next_token_loss, (hidden, weight, targets, bias), reduction)
    for leaf, gradient in zip((hidden, weight, bias), gradients, strict=True):
        data, slopes = leaf.detach().view(-1), []
        for i in range(0, len(data), 7):
            values = []
            for step in (1e-5, -2e-5):
                data[i] += step
                with torch.no_grad():
                    values.append(next_token_loss(hidden, weight, targets, bias, reduction))
            data[i] += 1e-5
            slopes.append(3 * (values[0] - values[1]) / 2e-5)
        torch.testing.assert_close(torch.stack(slopes), gradient.flatten()[::7], rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("frozen", ["hidden", "weight", "bias"])
def test_only_what_needs_a_gradient_gets_one(frozen: str) -> None:
    arguments = dict(zip(("hidden", "weight", "targets", "bias"), inputs(), strict=True))
    next_token_loss(**arguments).backward()
    expected = {name: x.grad for name, x in arguments.items()}
    arguments = dict(zip(("hidden", "weight", "targets", "bias"), inputs(), strict=True))
    arguments[frozen].requires_grad_(False)
    next_token_loss(**arguments).backward()
    for name, x in arguments.items():
        if name == frozen:
            assert x.grad is None
        elif name != "targets":
            torch.testing.assert_close(x.grad, expected[name])


def test_without_gradients_the_value_is_the_same() -> None:
    expected = next_token_loss(*inputs())
    with torch.no_grad():
        value = next_token_loss(*inputs())
    assert value.item() == expected.item()
    assert not value.requires_grad


def test_tied_weights_get_both_gradients() -> None:
    torch.manual_seed(0)
    table, tokens = torch.randn(97, 16).requires_grad_(), torch.randint(97, (2, 9))

    def gradient(function: Any) -> torch.Tensor:
        return torch.autograd.grad(function(table[tokens].tanh(), table, tokens, None, "mean"), table)[0]

    torch.testing.assert_close(gradient(next_token_loss), gradient(cross_entropy_of_all_logits))


def test_bfloat16_weights_sum_in_float32() -> None:
    ours = with_gradients(next_token_loss, inputs(dtype=torch.bfloat16), "mean")
    wide = tuple(
        x.detach().float().requires_grad_() if x.is_floating_point() else x for x in inputs(True, torch.bfloat16)
    )
    plain = with_gradients(cross_entropy_of_all_logits, wide, "mean")
    assert ours[0].dtype == torch.float32
    assert all(x.dtype == torch.bfloat16 for x in ours[1:])
    torch.testing.assert_close(ours[0], plain[0], rtol=5e-3, atol=0)
    for left, right in zip(ours[1:], plain[1:], strict=True):
        torch.testing.assert_close(left.float(), right, rtol=0.05, atol=0.02)


def test_autocast_keeps_float32_gradients_for_float32_weights() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        ours = with_gradients(next_token_loss, inputs(), "mean")
    plain = with_gradients(cross_entropy_of_all_logits, inputs(), "mean")
    assert all(x.dtype == torch.float32 for x in ours)
    for left, right in zip(ours, plain, strict=True):
        torch.testing.assert_close(left, right, rtol=0.05, atol=0.02)


def test_huge_logits_stay_finite() -> None:
    hidden, weight, targets, bias = inputs()
    arguments = (hidden.detach().mul(1e4).requires_grad_(), weight, targets, bias)
    ours = with_gradients(next_token_loss, arguments, "mean")
    torch.testing.assert_close(ours[0], cross_entropy_of_all_logits(*arguments, "mean"))
    assert all(x.isfinite().all() for x in ours)


def test_a_second_backward_fails_rather_than_lies() -> None:
    value = next_token_loss(*inputs())
    value.backward(retain_graph=True)
    with pytest.raises((AttributeError, RuntimeError)):
        value.backward()


def test_a_reduction_that_is_not_offered_is_refused() -> None:
    with pytest.raises(ValueError, match="max"):
        next_token_loss(torch.zeros(2, 4), torch.zeros(5, 4), torch.tensor([0, 1]), reduction="max")


@pytest.mark.parametrize("chunk", [1, 1 << 25])
def test_losses_of_single_tokens_have_no_gradient_and_those_of_the_mean(chunk: int, monkeypatch: Any) -> None:
    monkeypatch.setattr("yinggem.model.kernels.chunked_cross_entropy.CHUNK_ELEMENTS", chunk)
    hidden, weight, targets, bias = inputs()
    losses = next_token_loss(hidden, weight, targets, bias, "none")
    assert losses.shape == targets.shape and not losses.requires_grad
    plain = torch.nn.functional.cross_entropy(
        (hidden @ weight.T + bias).flatten(0, 1), targets.flatten(), reduction="none"
    )
    torch.testing.assert_close(losses.flatten(), plain.detach())
