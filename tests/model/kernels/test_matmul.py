"""The fast products against torch's own."""

import pytest
import torch
import torch.nn.functional as F

from yinggem.model.kernels import matmul as products


@pytest.fixture(params=[True, False], ids=["Intel", "others"])
def of_intel(request, monkeypatch) -> bool:
    """Both choices of kernels, whatever this machine is."""
    monkeypatch.setattr(products, "prefers_mkl", lambda: request.param)
    return request.param


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(1,), (1, 1), (3, 1), (2, 2), (5, 1), (2, 300), (7, 90)], ids=str)
@pytest.mark.parametrize("out", [5, 512, 1001])
def test_it_is_the_linear_map_whatever_the_kernel(shape, out, bias):
    torch.manual_seed(0)
    x, weight = torch.randn(*shape, 96), torch.randn(out, 96)
    b = torch.randn(out) if bias else None
    with torch.no_grad():
        torch.testing.assert_close(products.linear(x, weight, b), F.linear(x, weight, b), atol=1e-4, rtol=1e-5)


@torch.inference_mode()
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rows", [1, 2, 3, 8])
@pytest.mark.parametrize("out", [5, 512, 1001])
def test_a_prepared_product_is_the_linear_map_for_any_number_of_rows(out, rows, bias, of_intel):
    torch.manual_seed(0)
    weight, b = torch.randn(out, 288), torch.randn(out) if bias else None
    product = products.prepare_linear(weight, b, rows) or (lambda x: F.linear(x, weight, b))
    assert out < 512 or products.prepare_linear(weight, b, rows)
    for shape in ((rows, 1, 288), (1, 288), (288,), (2, 7, 288)):
        x = torch.randn(shape)
        torch.testing.assert_close(product(x), F.linear(x, weight, b), atol=1e-4, rtol=1e-5)


def test_what_torch_multiplies_best_is_not_prepared():
    weight = torch.randn(512, 512)
    assert products.prepare_linear(weight[:8], None, 1) is None
    assert products.prepare_linear(weight.bfloat16(), None, 1) is None
    assert products.prepare_linear(weight.double(), None, 8) is None
    assert products.prepare_linear(weight.to("meta"), None, 1) is None
    with torch.autocast("cpu", torch.bfloat16):
        assert products.prepare_linear(weight, None, 1) is None


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("contiguous", [True, False])
def test_gradients_are_those_of_the_linear_map(bias, contiguous, of_intel):
    torch.manual_seed(0)
    x, weight = torch.randn(2, 300, 96, requires_grad=True), torch.randn(512, 96, requires_grad=True)
    b = torch.randn(512, requires_grad=True) if bias else None
    inputs = [tensor for tensor in (x, weight, b) if tensor is not None]
    grad = torch.randn(2, 300, 512) if contiguous else torch.randn(300, 2, 512).transpose(0, 1)
    assert x.numel() * len(weight) >= products.SMALL  # the path with a backward of its own
    ours = torch.autograd.grad(products.linear(x, weight, b), inputs, grad)
    torchs = torch.autograd.grad(F.linear(x, weight, b), inputs, grad)
    for one, other in zip(ours, torchs, strict=True):
        torch.testing.assert_close(one, other, atol=2e-3, rtol=1e-5)


def test_autocast_and_other_types_are_left_to_torch():
    x, weight = torch.randn(300, 96), torch.randn(512, 96)
    with torch.autocast("cpu", torch.bfloat16):
        assert products.linear(x, weight).dtype == torch.bfloat16
    doubles = products.linear(x.double(), weight.double())
    torch.testing.assert_close(doubles, F.linear(x.double(), weight.double()), rtol=0, atol=0)


def test_nothing_is_computed_for_what_needs_no_gradient():
    x, weight = torch.randn(300, 96), torch.randn(512, 96, requires_grad=True)
    products.linear(x, weight).sum().backward()
    assert x.grad is None and weight.grad is not None
