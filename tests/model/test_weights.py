"""Names, shapes and types without torch: those of the real model."""

import math

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from yinggem.model.config import ModelConfig
from yinggem.model.quantization import quantize
from yinggem.model.transformer import Transformer
from yinggem.model.weights import are_finite, count_weights, quantized_entries, weight_shapes

configs = st.builds(
    ModelConfig, st.integers(1, 70), st.sampled_from([32, 48, 64]), st.integers(1, 2), st.just(4),
    st.sampled_from([None, 1, 2]), st.sampled_from([24, 32]), bias=st.booleans(), qk_norm=st.booleans(),
    tie_word_embeddings=st.booleans(), activation=st.sampled_from(["geglu", "relu2"]),
    norm=st.sampled_from(["rms", "layer"]), head_bias=st.sampled_from([None, True, False]),
)  # fmt: skip


@given(configs, st.sampled_from([None, "int8", "int4"]))
@settings(max_examples=40, deadline=None)
def test_they_are_those_of_the_model(config, kind):
    model = Transformer(config)
    state = (quantize(model, kind) if kind else model).state_dict()
    found = {name: (tuple(tensor.shape), str(tensor.dtype).removeprefix("torch.")) for name, tensor in state.items()}
    if kind:
        assert quantized_entries(config, kind) == found
    assert kind or weight_shapes(config) == {name: shape for name, (shape, _) in found.items()}
    counts = [count_weights(name, shape, kind) for name, (shape, _) in found.items()]
    assert sum(counts) == config.parameters == sum(map(math.prod, weight_shapes(config).values()))


def test_one_number_that_is_not_finite_is_found():
    for value in (math.nan, math.inf, -math.inf):
        values = np.ones((5, 7), np.float32)
        assert are_finite(values) and are_finite(np.zeros(0))
        values[3, 2] = value
        assert not are_finite(values)
