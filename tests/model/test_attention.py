"""Every backend has one meaning: the loops of references.py, and each other."""

import itertools
from collections.abc import Iterator

import pytest
import torch
from references import attention_by_loops
from torch import Tensor

from yinggem.common.errors import UserError
from yinggem.model import attention as attention_module
from yinggem.model.attention import BACKENDS, attention
from yinggem.model.kernels import banded_attention
from yinggem.model.masks import band_mask

WINDOW = 8
LENGTHS = [1, 5, WINDOW, WINDOW + 1, 5 * WINDOW + 3]  # T <, =, > W and not a multiple of it
States = tuple[Tensor, Tensor, Tensor]  # query, key and value


@pytest.fixture(autouse=True)
def several_chunks(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Chunks far shorter than the sequences here, so that their borders are tested."""
    monkeypatch.setattr(attention_module, "CHUNK", 6)
    monkeypatch.setattr(banded_attention, "CHUNK", 6)
    yield


def states(length: int, total: int | None = None, kv_heads: int = 4, dtype: torch.dtype = torch.float32) -> States:
    torch.manual_seed(length)
    shapes = (4, length), (kv_heads, total or length), (kv_heads, total or length)
    query, key, value = (torch.randn(2, heads, size, 16).to(dtype).requires_grad_() for heads, size in shapes)
    return query, key, value


def values_and_gradients(backend: str, inputs: States, window: int | None) -> list[Tensor]:
    out = attention(*inputs, window, backend=backend)
    weights = torch.linspace(-1, 1, out.numel()).view_as(out)
    return [out.float(), *(grad.float() for grad in torch.autograd.grad((out * weights).sum(), inputs))]


@pytest.mark.slow
@pytest.mark.parametrize("window", [1, WINDOW, None])
@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_values_are_those_of_the_loops(backend: str, length: int, window: int | None) -> None:
    query, key, value = (x.detach() for x in states(length, kv_heads=2))
    found = attention(query, key, value, window, backend=backend)
    torch.testing.assert_close(found, attention_by_loops(query, key, value, window))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kv_heads", [4, 2, 1])
@pytest.mark.parametrize("length", LENGTHS)
def test_backends_agree_in_values_and_gradients(length: int, kv_heads: int, dtype: torch.dtype) -> None:
    results = [values_and_gradients(backend, states(length, None, kv_heads, dtype), WINDOW) for backend in BACKENDS]
    rtol, atol = (1e-4, 1e-5) if dtype == torch.float32 else (0.05, 0.06)
    for one, other in itertools.combinations(results, 2):
        for left, right in zip(one, other, strict=True):
            torch.testing.assert_close(left, right, rtol=rtol, atol=atol)


@pytest.mark.parametrize("window", [1, 3, WINDOW, None])
@pytest.mark.parametrize("backend", BACKENDS)
def test_queries_stand_at_the_end_of_the_keys(backend: str, window: int | None) -> None:
    """A chunk appended to a cache sees what the same positions see in the whole sequence."""
    query, key, value = (x.detach() for x in states(30))
    whole = attention(query, key, value, window)
    torch.testing.assert_close(attention(query[:, :, 17:], key, value, window, backend=backend), whole[:, :, 17:])


@pytest.mark.parametrize("backend", ["sdpa", "banded"])
def test_gradients_are_those_of_the_loops(backend: str) -> None:
    inputs = states(19, 23, kv_heads=2)
    out = attention_by_loops(*inputs, WINDOW)
    weights = torch.linspace(-1, 1, out.numel()).view_as(out)
    expected = torch.autograd.grad((out * weights).sum(), inputs)
    for ours, wanted in zip(values_and_gradients(backend, inputs, WINDOW)[1:], expected, strict=True):
        torch.testing.assert_close(ours, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
def test_window_edges_and_causality(backend: str) -> None:
    """Changing the key and value at j changes exactly the queries with i - W < j <= i."""
    query, key, value = (x.detach() for x in states(30))
    before = attention(query, key, value, WINDOW, backend=backend)
    key[:, :, 12] += 1
    value[:, :, 12] += 1
    changed = (attention(query, key, value, WINDOW, backend=backend) != before).flatten(0, 1).any(0).any(-1)
    assert changed.nonzero().flatten().tolist() == list(range(12, 12 + WINDOW))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("window", [WINDOW, None])
def test_dropout_works_in_every_backend(backend: str, window: int | None) -> None:
    """With values of one, a row is the sum of its kept weights / (1 - p): its mean over many rows is one."""
    query, key, value = states(64, kv_heads=2)
    out = attention(query, key, torch.ones_like(value), window, dropout=0.25, backend=backend)
    assert out.std() > 0.05
    assert out.mean().item() == pytest.approx(1, abs=0.1)
    attention(query, key, value, window, dropout=0.25, backend=backend).sum().backward()
    assert all(x.grad is not None and x.grad.isfinite().all() for x in (query, key, value))


def test_banded_memory_for_the_backward_pass_is_linear() -> None:
    """Ten times the length keeps ten times as much, never a (T, T) mask or score matrix."""

    def kept(length: int) -> int:
        sizes: list[int] = []

        def counted(x: Tensor) -> Tensor:
            sizes.append(x.numel())
            return x

        with torch.autograd.graph.saved_tensors_hooks(counted, lambda x: x):
            attention(*states(length), WINDOW, backend="banded")
        return sum(sizes)

    assert kept(400) == 10 * kept(40) > 0


def test_dropout_drops_the_same_weights_in_backward() -> None:
    """The output is linear in the values, so their gradient is the map itself: <grad, value> = <out, grad_out>."""
    query, key, value = states(40, kv_heads=2)
    out = attention(query, key, value, WINDOW, dropout=0.5, backend="banded")
    weights = torch.randn_like(out)
    (grad,) = torch.autograd.grad(out, value, weights)
    torch.testing.assert_close((grad * value).sum(), (out * weights).sum(), rtol=1e-4, atol=1e-4)


def test_dropout_depends_on_the_seed_alone() -> None:
    inputs = states(40)

    def once(seed: int) -> list[Tensor]:
        torch.manual_seed(seed)
        out = attention(*inputs, WINDOW, dropout=0.5, backend="banded")
        return [out, *torch.autograd.grad(out.square().sum(), inputs)]

    assert all(torch.equal(one, other) for one, other in zip(once(1), once(1), strict=True))
    assert not torch.equal(once(1)[0], once(2)[0])


def test_a_backend_there_is_not_is_named() -> None:
    with pytest.raises(UserError, match="bandit"):
        attention(*states(5), 3, backend="bandit")


def test_band_mask_is_the_definition() -> None:
    mask = band_mask(4, 7, 3)
    for row, i in enumerate(range(3, 7)):
        assert mask[row].nonzero().flatten().tolist() == [j for j in range(7) if i - 3 < j <= i]
