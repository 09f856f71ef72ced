"""How much the network, the text's counts and the window's counts are believed: a small gate, fitted to unseen text."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from yinggem.common.errors import UserError

SOURCES = ("network", "text", "window")
HIDDEN = 16
STEPS, BATCH, RATE, DECAY = 400, 1024, 0.02, 1e-4  # of the fit: Adam on batches of so many predictions
LEAST_TOKENS = 1024  # fewer predictions say too little to fit a gate


@dataclass(frozen=True)
class Mixture:
    """P = sum of weight * P of a source, where a network of one hidden layer makes the weights of the features.

    The features are those of `TextCounts` and of `score_windows`, and the log of how many tokens stand before. They
    do not depend on the token that is asked about, so the probabilities of all ids sum to one as those of the sources.

    Args:
        parameters: arrays hidden (F, H) and hidden_bias (H,), out (H, S), out_bias (S,) and direct (F, S).
    """

    parameters: dict[str, np.ndarray]

    def weights(self, features: np.ndarray, sources: tuple[bool, ...] = (True, True, True)) -> np.ndarray:
        """(..., S) that sum to one, from features (..., F); sources that are left out get none."""
        scaled = _scaled(features)
        hidden = np.tanh(scaled @ self.parameters["hidden"] + self.parameters["hidden_bias"])
        logits = hidden @ self.parameters["out"] + scaled @ self.parameters["direct"] + self.parameters["out_bias"]
        logits = np.where(sources, logits, -np.inf)
        weights: np.ndarray = np.exp(logits - logits.max(-1, keepdims=True))
        return weights / weights.sum(-1, keepdims=True)

    def fitted(self, features: np.ndarray, probabilities: np.ndarray, sources: tuple[bool, ...]) -> "Mixture":
        """This mixture, improved for predictions with features (N, F) and the sources' probabilities (N, S).

        The same predictions give the same bits. Fewer than LEAST_TOKENS change nothing.
        """
        if len(features) < LEAST_TOKENS:
            return self
        draw = np.random.default_rng(0)
        parameters = {name: array.copy() for name, array in self.parameters.items()}
        parameters["hidden"] = draw.standard_normal(parameters["hidden"].shape) / np.sqrt(len(parameters["hidden"]))
        first, second = ({name: np.zeros_like(array) for name, array in parameters.items()} for _ in range(2))
        for step in range(1, STEPS + 1):
            some = draw.integers(len(features), size=BATCH)
            gradients = Mixture(parameters)._gradients(features[some], probabilities[some], sources)
            rate = RATE * min(1.0, 2 * (1 - step / STEPS))
            for name, gradient in gradients.items():
                gradient = gradient + DECAY * (parameters[name] - self.parameters[name])
                first[name] += 0.1 * (gradient - first[name])
                second[name] += 0.01 * (gradient**2 - second[name])
                size = np.sqrt(second[name] / (1 - 0.99**step)) + 1e-8
                parameters[name] -= rate * first[name] / (1 - 0.9**step) / size
        return Mixture(parameters)

    def _gradients(
        self, features: np.ndarray, probabilities: np.ndarray, sources: tuple[bool, ...]
    ) -> dict[str, np.ndarray]:
        """Of the mean nats of a batch."""
        scaled = _scaled(features)
        hidden = np.tanh(scaled @ self.parameters["hidden"] + self.parameters["hidden_bias"])
        weights = self.weights(features, sources)
        share = weights * probabilities
        slope = (weights - share / share.sum(-1, keepdims=True)) / len(features)  # of the logits
        inner = (slope @ self.parameters["out"].T) * (1 - hidden**2)
        return {
            "hidden": scaled.T @ inner, "hidden_bias": inner.sum(0), "out": hidden.T @ slope,
            "out_bias": slope.sum(0), "direct": scaled.T @ slope,
        }  # fmt: skip

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {name: array.tolist() for name, array in self.parameters.items()}

    @classmethod
    def from_dict(cls, content: Any) -> "Mixture":
        """The inverse of `to_dict`; UserError for anything else: a checkpoint may come from anybody."""
        try:
            found = {name: np.array(content[name], np.float64) for name in FIXED.parameters}
        except (KeyError, TypeError, ValueError):
            raise UserError("The mixture of a memory is damaged.") from None
        for name, array in FIXED.parameters.items():
            if found[name].shape != array.shape or not np.isfinite(found[name]).all():
                raise UserError("The mixture of a memory is damaged.")
        return cls(found)


def _scaled(features: np.ndarray) -> np.ndarray:
    return features / 4


def _fixed() -> Mixture:
    """Weights for where nothing was fitted: a linear gate, fitted once to Shakespeare by characters and by tokens."""
    #   text: length, count, followers; window: length, count, followers; position
    direct = np.array([
        [0.3, -1.1, 1.9, -1.0, -0.1, 0.6, 0.0],
        [1.4, 0.5, -0.7, -0.8, -0.6, 1.3, -0.2],
        [-1.7, 0.6, -1.2, 1.8, 0.7, -1.9, 0.2],
    ])  # fmt: skip
    inner = {"hidden": np.zeros((7, HIDDEN)), "hidden_bias": np.zeros(HIDDEN), "out": np.zeros((HIDDEN, len(SOURCES)))}
    return Mixture(inner | {"out_bias": np.array([0.5, 0.1, -0.6]), "direct": direct.T})


FIXED = _fixed()
