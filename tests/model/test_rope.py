"""Rotary positions against complex numbers and transformers."""

import pytest
import torch
from references import rotate_by_complex_numbers
from transformers.models.mistral.configuration_mistral import MistralConfig
from transformers.models.mistral.modeling_mistral import MistralRotaryEmbedding, apply_rotary_pos_emb

from yinggem.model.rope import rotary_angles, rotate

CPU = torch.device("cpu")


@pytest.mark.parametrize("start", [0, 5, 20_000])
@pytest.mark.parametrize("theta", [10_000.0, 500_000.0])
def test_rotation_is_complex_multiplication(start: int, theta: float) -> None:
    x = torch.randn(2, 9, 3, 16)
    out = rotate(x, *rotary_angles(start, 9, 16, theta, CPU))
    expected = rotate_by_complex_numbers(x, torch.arange(start, start + 9), theta)
    torch.testing.assert_close(out, expected, rtol=1e-4, atol=2e-3 if start > 1000 else 1e-5)


def test_rotation_equals_mistral() -> None:
    config = MistralConfig(hidden_size=64, num_attention_heads=4, head_dim=16, rope_theta=10_000.0)
    query, key = torch.randn(2, 4, 9, 16), torch.randn(2, 4, 9, 16)
    cos, sin = MistralRotaryEmbedding(config)(query, torch.arange(100, 109)[None])
    expected = apply_rotary_pos_emb(query, key, cos, sin)
    angles = rotary_angles(100, 9, 16, 10_000.0, CPU)
    for x, wanted in zip((query, key), expected, strict=True):
        torch.testing.assert_close(rotate(x.transpose(1, 2), *angles).transpose(1, 2), wanted)


def test_scores_depend_on_the_distance_alone() -> None:
    query, key = torch.randn(1, 1, 1, 32), torch.randn(1, 1, 1, 32)

    def score(query_position: int, key_position: int) -> float:
        turned = (
            rotate(x, *rotary_angles(position, 1, 32, 10_000.0, CPU))
            for x, position in ((query, query_position), (key, key_position))
        )
        return torch.linalg.vecdot(*turned).item()

    assert score(17, 4) == pytest.approx(score(1017, 1004), abs=1e-3)
    assert score(17, 4) != pytest.approx(score(17, 5), abs=1e-3)


def test_angles_stay_float32_for_a_bfloat16_model() -> None:
    """Position 4097 is not a bfloat16 number: rounded angles would turn by another position's angle."""
    cos, _ = rotary_angles(4097, 1, 16, 10_000.0, CPU)
    assert cos.dtype == torch.float32
    x = torch.randn(1, 1, 1, 16)
    out = rotate(x.bfloat16(), *rotary_angles(4097, 1, 16, 10_000.0, CPU))
    expected = rotate_by_complex_numbers(x, torch.tensor([4097]), 10_000.0)
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.float(), expected, rtol=0, atol=0.04)
    with torch.autocast("cpu", torch.bfloat16):
        assert rotary_angles(4097, 1, 16, 10_000.0, CPU)[0].equal(cos)


def test_gradient_is_the_opposite_rotation() -> None:
    x = torch.randn(2, 5, 3, 8, dtype=torch.float32, requires_grad=True)
    grad = torch.randn(2, 5, 3, 8)
    cos, sin = rotary_angles(3, 5, 8, 10_000.0, CPU)
    rotate(x, cos, sin).backward(grad)
    torch.testing.assert_close(x.grad, rotate(grad, cos, -sin))
