"""The mixture: weights that sum to one, better after a fit, and the same bits from the same predictions."""

from typing import Any

import numpy as np
import pytest

from yinggem.common.errors import UserError
from yinggem.memory.mixture import FIXED, LEAST_TOKENS, Mixture

ALL = (True, True, True)


def predictions(count: int = 4000) -> tuple[np.ndarray, np.ndarray]:
    """Features and probabilities of three sources, of which the third is good where the fourth feature is large."""
    draw = np.random.default_rng(1)
    features = draw.uniform(0, 8, (count, 7))
    probabilities = draw.uniform(0.05, 0.4, (count, 3))
    probabilities[:, 2] = np.where(features[:, 3] > 4, 0.9, 0.001)
    return features, probabilities


def nats(mixture: Mixture, features: np.ndarray, probabilities: np.ndarray) -> float:
    return float(-np.log((mixture.weights(features) * probabilities).sum(-1)).mean())


def test_weights_sum_to_one_and_sources_can_be_left_out():
    features, _ = predictions(50)
    assert FIXED.weights(features).sum(-1) == pytest.approx(1)
    weights = FIXED.weights(features, (False, True, True))
    assert (weights[:, 0] == 0).all() and weights.sum(-1) == pytest.approx(1)


def test_a_fit_finds_when_a_source_is_right_and_holds_for_other_predictions():
    features, probabilities = predictions(8000)
    fitted = FIXED.fitted(features[:4000], probabilities[:4000], ALL)
    rest = features[4000:], probabilities[4000:]
    weights = fitted.weights(rest[0])[:, 2]
    clear = np.abs(rest[0][:, 3] - 4) > 1
    assert ((weights > 0.5) == (rest[0][:, 3] > 4))[clear].mean() > 0.98
    assert nats(fitted, *rest) < nats(FIXED, *rest) - 0.1


def test_gradients_are_finite_differences():
    features, probabilities = predictions(20)
    draw = np.random.default_rng(2)
    mixture = Mixture({name: draw.normal(0, 0.5, array.shape) for name, array in FIXED.parameters.items()})
    for name, gradient in mixture._gradients(features, probabilities, ALL).items():
        for place in list(np.ndindex(gradient.shape))[::5]:
            values = []
            for step in (1e-5, -1e-5):
                moved = {key: array.copy() for key, array in mixture.parameters.items()}
                moved[name][place] += step
                values.append(nats(Mixture(moved), features, probabilities))
            assert (values[0] - values[1]) / 2e-5 == pytest.approx(gradient[place], rel=1e-4, abs=1e-8)


def test_the_same_predictions_give_the_same_bits_and_too_few_change_nothing():
    features, probabilities = predictions(2000)
    one, other = (FIXED.fitted(features, probabilities, ALL) for _ in range(2))
    assert one.to_dict() == other.to_dict() != FIXED.to_dict()
    assert FIXED.fitted(features[: LEAST_TOKENS - 1], probabilities[: LEAST_TOKENS - 1], ALL) is FIXED


def test_plain_data_gives_back_the_mixture_and_anything_else_is_refused():
    features, probabilities = predictions(2000)
    fitted = FIXED.fitted(features, probabilities, ALL)
    assert np.array_equal(Mixture.from_dict(fitted.to_dict()).weights(features), fitted.weights(features))
    for damage in ({"out": [[1.0]]}, {"out_bias": [0, 0, float("nan")]}, {"direct": "x"}, {"hidden": None}):
        with pytest.raises(UserError, match="mixture"):
            Mixture.from_dict(fitted.to_dict() | damage)
    wrong: Any
    for wrong in (None, {}, []):
        with pytest.raises(UserError, match="mixture"):
            Mixture.from_dict(wrong)
