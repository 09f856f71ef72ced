"""Apple's GPUs (MPS) have no float64: training, evaluation and generation ask the device for none."""

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from training_runs import trained

from yinggem.callbacks.model_stats import AttentionDistances, UpdateRatios
from yinggem.callbacks.throughput import Throughput
from yinggem.inference.completion import complete_text
from yinggem.inference.evaluation import evaluate
from yinggem.inference.networks.torch_network import TorchNetwork
from yinggem.inference.sampling import Sampling


class WithoutFloat64(TorchFunctionMode):
    """Every tensor is the device's, but those that `.cpu()` brought to the host and those made from Python numbers.

    Only on the host may there be float64; what is computed of the host's tensors is the host's.
    """

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        given = [value for value in self._flat([*args, *kwargs.values()]) if isinstance(value, Tensor)]
        moved = func is Tensor.cpu or (func is Tensor.to and any(str(value) == "cpu" for value in args[1:]))
        host = moved or (all(hasattr(t, "on_host") for t in given) and kwargs.get("device") is None)
        if moved:
            out = out.clone()  # on a CPU it is the same tensor
        for result in self._flat([out]):
            if isinstance(result, Tensor) and host:
                result.on_host = True  # type: ignore[attr-defined]
            elif isinstance(result, Tensor) and result.dtype == torch.float64:
                raise TypeError(f"Cannot make a float64 on the device: {func}")
        return out

    def _flat(self, values):
        for value in values:
            if isinstance(value, list | tuple):
                yield from self._flat(value)
            else:
                yield value


def test_the_device_of_this_test_refuses_float64():
    ours = torch.ones(3)
    with WithoutFloat64():
        there = ours.clone()
        assert float(there.cpu().double().sum()) == 3
        for refused in (there.double, lambda: there.to(torch.float64), lambda: there.sum(dtype=torch.float64)):
            with pytest.raises(TypeError, match="float64"):
                refused()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("optimizer", ["sgd", "adafactor", "adamw", "muon"])
def test_training_and_validation(tmp_path, optimizer):
    callbacks = [UpdateRatios(), Throughput(), AttentionDistances()]
    with WithoutFloat64():
        rows, _ = trained(tmp_path, callbacks, optimizer, limit_val_batches=1.0, val_check_interval=3,
                          check_val_every_n_epoch=None, accumulate_grad_batches=2)  # fmt: skip
    assert rows[6]["val/loss"] > 0 and rows[6]["attention/mean_distance/layer_00"] > 0


@pytest.mark.filterwarnings("ignore")
def test_evaluation_and_generation(tmp_path):
    _, module = trained(tmp_path, [], max_steps=1)
    ids = module.trainer.datamodule.split.val[:200]
    sampling = Sampling(temperature=0.9, top_p=0.85, top_k=20, min_p=0.01, repetition_penalty=1.2)
    with WithoutFloat64():
        model = module.model.eval()
        assert evaluate(model, ids, module.tokenizer.token_byte_lengths, 24, 4).loss > 0
        assert complete_text(TorchNetwork(model), module.tokenizer, "1 times", 20, sampling, 0)
