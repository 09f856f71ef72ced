"""The mixture: weights that sum to one, better after a fit, and the same bits from the same predictions."""

from typing import Any

import numpy as np
import pytest

from yinggem.common.errors import UserError
from yinggem.memory.mixture import FIXED, LEAST_TOKENS, Mixture, fixed, linear
from yinggem.memory.ngram_memory import mixed


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
    weights = FIXED.weights(features, network=False)
    assert (weights[:, 0] == 0).all() and weights.sum(-1) == pytest.approx(1)


def test_a_fit_finds_when_a_source_is_right_and_holds_for_other_predictions():
    features, probabilities = predictions(8000)
    fitted = FIXED.fitted(features[:4000], probabilities[:4000])
    rest = features[4000:], probabilities[4000:]
    weights = fitted.weights(rest[0])[:, 2]
    clear = np.abs(rest[0][:, 3] - 4) > 1
    assert ((weights > 0.5) == (rest[0][:, 3] > 4))[clear].mean() > 0.98
    assert nats(fitted, *rest) < nats(FIXED, *rest) - 0.1


def test_gradients_are_finite_differences():
    features, probabilities = predictions(20)
    draw = np.random.default_rng(2)
    mixture = Mixture({name: draw.normal(0, 0.5, array.shape) for name, array in FIXED.parameters.items()})
    for name, gradient in mixture._gradients(features, probabilities).items():
        for place in list(np.ndindex(gradient.shape))[::5]:
            values = []
            for step in (1e-5, -1e-5):
                moved = {key: array.copy() for key, array in mixture.parameters.items()}
                moved[name][place] += step
                values.append(nats(Mixture(moved), features, probabilities))
            assert (values[0] - values[1]) / 2e-5 == pytest.approx(gradient[place], rel=1e-4, abs=1e-8)


def test_the_same_predictions_give_the_same_bits_and_too_few_change_nothing():
    features, probabilities = predictions(2000)
    one, other = (FIXED.fitted(features, probabilities) for _ in range(2))
    assert one.to_dict() == other.to_dict() != FIXED.to_dict()
    assert FIXED.fitted(features[: LEAST_TOKENS - 1], probabilities[: LEAST_TOKENS - 1]) is FIXED


def test_more_features_and_sources_change_nothing_until_they_are_fitted():
    features, probabilities = predictions(6000)
    draw = np.random.default_rng(3)
    more = np.concatenate([features, draw.uniform(0, 8, (6000, 2))], -1)
    other = np.where(more[:, 8:] > 4, 0.95, 1e-4)
    mixture = fixed(9, 4)
    weights = mixture.weights(more)
    assert weights[:, :3] == pytest.approx(FIXED.weights(features)) and weights[:, 3].max() < 1e-9
    fitted = mixture.fitted(more, np.concatenate([probabilities, other], -1))
    assert ((fitted.weights(more)[:, 3] > 0.4) == (more[:, 8] > 4))[np.abs(more[:, 8] - 4) > 1].mean() > 0.9


def test_a_mixture_of_the_first_version_is_read_as_what_it_was():
    features, probabilities = predictions(2000)
    first = FIXED.fitted(features, probabilities)
    read = Mixture.from_dict(first.to_dict(), 12, 6)
    more = np.concatenate([features, np.ones((2000, 5))], -1)
    assert read.weights(more)[:, :3] == pytest.approx(first.weights(features))


def test_plain_data_gives_back_the_mixture_and_anything_else_is_refused():
    features, probabilities = predictions(2000)
    fitted = FIXED.fitted(features, probabilities)
    assert np.array_equal(Mixture.from_dict(fitted.to_dict(), 7, 3).weights(features), fitted.weights(features))
    for damage in ({"out": [[1.0]]}, {"out_bias": [0, 0, float("nan")]}, {"direct": "x"}, {"hidden": None}):
        with pytest.raises(UserError, match="mixture"):
            Mixture.from_dict(fitted.to_dict() | damage, 7, 3)
    wrong: Any
    for wrong in (None, {}, []):
        with pytest.raises(UserError, match="mixture"):
            Mixture.from_dict(wrong, 7, 3)


@pytest.mark.parametrize("vocab_size", [256, 2048])
def test_a_memory_begins_with_a_gate_that_knows_its_features_and_another_with_the_linear_one(vocab_size):
    shape = mixed(vocab_size)
    gate = fixed(*shape)
    assert gate.parameters["hidden"].shape[0] == shape[0] and gate.parameters["hidden"].any()
    features = np.random.default_rng(0).uniform(0, 8, (50, shape[0]))
    assert gate.weights(features).sum(-1) == pytest.approx(1)
    assert Mixture.from_dict(gate.to_dict(), *shape).to_dict() == gate.to_dict()
    assert fixed(shape[0] + 1, shape[1]).to_dict() == linear(shape[0] + 1, shape[1]).to_dict()
