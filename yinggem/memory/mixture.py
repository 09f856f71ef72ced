"""How much the network, the text's counts and the window's counts are believed: a small gate, fitted to unseen text."""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from yinggem.common.errors import UserError

SOURCES = ("network", "text", "window")  # always there, and first
SUMMARY = 7  # features that are always there, and first
HIDDEN = 16
SILENT, HOPEFUL = -30.0, -2.0  # the bias of a source that counts for nothing; where a fit begins with such a source
BATCH, RATE, STEPS, PASSES = 1024, 0.02, 700, 48  # of the fit: Adam on batches of so many predictions
PULL = 2.0  # towards the weights it begins with, over the number of predictions: few say little
LEAST_TOKENS = 1024  # fewer predictions say too little to fit a gate
GATES = "gates.json"  # beside this file: where a fit begins, made by benchmarks/gates.py


@dataclass(frozen=True)
class Mixture:
    """P = sum of weight * P of a source, where a network of one hidden layer makes the weights of the features:

        weights = softmax(tanh(f hidden + hidden_bias) out + f direct + out_bias) with f = features / 4

    The features do not depend on the token that is asked about, so the probabilities of all ids sum to one as those of
    the sources.

    Args:
        parameters: arrays hidden (F, H) and hidden_bias (H,), out (H, S), out_bias (S,) and direct (F, S).
    """

    parameters: dict[str, np.ndarray]

    def weights(self, features: np.ndarray, network: bool = True) -> np.ndarray:
        """(..., S) that sum to one, from features (..., F); without the network its weight, the first, is 0."""
        return self._layers(features, network)[-1]

    def _layers(self, features: np.ndarray, network: bool = True) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The features scaled (..., F), what the hidden layer makes of them (..., H), and the weights (..., S)."""
        scaled = _scaled(features)
        hidden = np.tanh(scaled @ self.parameters["hidden"] + self.parameters["hidden_bias"])
        logits = hidden @ self.parameters["out"] + scaled @ self.parameters["direct"] + self.parameters["out_bias"]
        if not network:
            logits[..., 0] = -np.inf
        weights: np.ndarray = np.exp(logits - logits.max(-1, keepdims=True))
        return scaled, hidden, weights / weights.sum(-1, keepdims=True)

    def fitted(self, features: np.ndarray, probabilities: np.ndarray) -> "Mixture":
        """This mixture, improved for predictions with features (N, F) and the sources' probabilities (N, S).

        The same predictions give the same bits. Fewer than LEAST_TOKENS change nothing.
        """
        if len(features) < LEAST_TOKENS:
            return self
        draw = np.random.default_rng(0)
        steps = min(STEPS, PASSES * len(features) // BATCH)
        parameters = {name: array.copy() for name, array in self.parameters.items()}
        if not parameters["hidden"].any():  # all would learn the same
            parameters["hidden"] = draw.standard_normal(parameters["hidden"].shape) / np.sqrt(len(parameters["hidden"]))
        parameters["out_bias"] = np.maximum(parameters["out_bias"], HOPEFUL)
        begun = self.parameters | {"out_bias": parameters["out_bias"].copy()}
        first, second = ({name: np.zeros_like(array) for name, array in parameters.items()} for _ in range(2))
        for step in range(1, steps + 1):
            some = draw.integers(len(features), size=BATCH)
            gradients = Mixture(parameters)._gradients(features[some], probabilities[some])
            rate = RATE * min(1.0, 2 * (1 - step / steps))
            for name, gradient in gradients.items():
                gradient = gradient + PULL / len(features) * (parameters[name] - begun[name])
                first[name] += 0.1 * (gradient - first[name])
                second[name] += 0.01 * (gradient**2 - second[name])
                size = np.sqrt(second[name] / (1 - 0.99**step)) + 1e-8
                parameters[name] -= rate * first[name] / (1 - 0.9**step) / size
        return Mixture(parameters)

    def _gradients(self, features: np.ndarray, probabilities: np.ndarray) -> dict[str, np.ndarray]:
        """Of the mean nats of a batch."""
        scaled, hidden, weights = self._layers(features)
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
    def from_dict(cls, content: Any, features: int, sources: int) -> "Mixture":
        """The inverse of `to_dict`, for so many features and sources; the first version knew the first few alone.

        Raises:
            UserError: it is anything else: a checkpoint may come from anybody.
        """
        try:
            found = {name: np.array(content[name], np.float64) for name in FIXED.parameters}
        except (KeyError, TypeError, ValueError):
            raise UserError("The mixture of a memory is damaged.") from None
        for wanted in (linear(features, sources), FIXED):
            if all(found[name].shape == array.shape for name, array in wanted.parameters.items()):
                break
        else:
            raise UserError("The mixture of a memory is damaged.")
        if not all(np.isfinite(array).all() for array in found.values()):
            raise UserError("The mixture of a memory is damaged.")
        return _extended(found, features, sources)


def fixed(features: int, sources: int) -> Mixture:
    """Weights for where nothing was fitted, and where a fit begins.

    Of the memories that there are, in tokens and in letters, they are gates of GATES, fitted once to the ends of small
    texts whose beginnings network and counts had seen. Of any other they are linear.
    """
    wanted = linear(features, sources)
    shapes = {name: array.shape for name, array in wanted.parameters.items()}
    return next((gate for gate in _gates() if {n: a.shape for n, a in gate.parameters.items()} == shapes), wanted)


@cache
def _gates() -> tuple[Mixture, ...]:
    known = json.loads((Path(__file__).parent / GATES).read_text(encoding="utf-8"))
    return tuple(Mixture({name: np.array(values) for name, values in gate.items()}) for gate in known)


def linear(features: int, sources: int) -> Mixture:
    """A linear gate, fitted once to Shakespeare by characters and by tokens.

    It believes the first of SOURCES, by the first SUMMARY features alone.
    """
    return _extended(FIXED.parameters, features, sources)


def _extended(parameters: dict[str, np.ndarray], features: int, sources: int) -> Mixture:
    """The same mixture of more features, which change nothing, and of more sources, which count for nothing."""
    more, others = features - len(parameters["hidden"]), sources - len(parameters["out_bias"])
    silent = np.full(others, SILENT)
    return Mixture({
        "hidden": np.pad(parameters["hidden"], ((0, more), (0, 0))), "hidden_bias": parameters["hidden_bias"],
        "out": np.pad(parameters["out"], ((0, 0), (0, others))),
        "out_bias": np.concatenate([parameters["out_bias"], silent]),
        "direct": np.pad(parameters["direct"], ((0, more), (0, others))),
    })  # fmt: skip


def _scaled(features: np.ndarray) -> np.ndarray:
    return features / 4


def _first() -> Mixture:
    #   text: length, count, followers; window: length, count, followers; position
    direct = np.array([
        [0.3, -1.1, 1.9, -1.0, -0.1, 0.6, 0.0],
        [1.4, 0.5, -0.7, -0.8, -0.6, 1.3, -0.2],
        [-1.7, 0.6, -1.2, 1.8, 0.7, -1.9, 0.2],
    ])  # fmt: skip
    inner = {
        "hidden": np.zeros((SUMMARY, HIDDEN)), "hidden_bias": np.zeros(HIDDEN), "out": np.zeros((HIDDEN, len(SOURCES))),
    }  # fmt: skip
    return Mixture(inner | {"out_bias": np.array([0.5, 0.1, -0.6]), "direct": direct.T})


FIXED = _first()  # of SUMMARY features and SOURCES; `linear` makes it one of more
