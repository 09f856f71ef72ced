"""Which engine computes a model: the compiled one where it can, else torch, with the same meaning."""

import platform
import sys
from collections.abc import Callable
from glob import glob
from typing import TYPE_CHECKING, cast

from yinggem.engine.engine import MAX_ROWS, Engine, Storage, engine_refusal
from yinggem.inference.files.rounded_weights import rounded_weights
from yinggem.inference.files.stored_model import StoredModel, engine_weights
from yinggem.inference.generation import Network
from yinggem.inference.networks.engine_network import EngineNetwork
from yinggem.model.weights import check_finite, check_quantization

if TYPE_CHECKING:
    from yinggem.model.transformer import Transformer

LARGE = 30_000_000  # parameters from which an accelerator is worth the seconds that it takes to start
DRIVERS = "/dev/nvidia[0-9]*", "/dev/kfd"  # of NVIDIA's and AMD's accelerators


def open_network(
    stored: StoredModel, device: str | None = None, quantization: str | None = None, lend: bool = False
) -> Network:
    """The model of a checkpoint, ready to generate.

    Args:
        device: "cpu", "cuda" ...; None is the fastest there is for a model of this size.
        quantization: "int8" or "int4" for smaller and faster weights; None as they are in the file.
        lend: the engine may compute with the weights where the file is mapped: it starts sooner, and takes less memory.
            Not where somebody may write into the file meanwhile; one that is replaced does no harm.

    Raises:
        UserError: the device cannot be used; the kind of quantization is unknown, or not the file's; some weights are
            NaN or infinite.
    """
    large = stored.config.parameters > LARGE
    if device not in (None, "cpu") or (device is None and large and has_driver()):
        from yinggem.inference.networks.device import choose_device

        place = choose_device(device)
        if device is not None or place.type != "cpu":
            return _torch_network(stored, str(place), quantization, f"on {place.type}")
    refusal = engine_refusal(stored.config)
    if refusal:
        return _torch_network(stored, "cpu", quantization, refusal)
    return EngineNetwork(stored.config, _engine_maker(stored, quantization, lend))


def has_driver() -> bool:
    """Whether there may be an accelerator that torch can use; found without torch, which takes seconds to say."""
    return any(glob(place) for place in DRIVERS) or (sys.platform == "darwin" and platform.machine() == "arm64")


def _torch_network(stored: StoredModel, device: str, quantization: str | None, reason: str) -> Network:
    from yinggem.inference.checkpoint import load_model
    from yinggem.inference.networks.torch_network import TorchNetwork

    model, _ = load_model(stored.path, device, quantization=quantization, stored=stored)
    return TorchNetwork(model, reason)


def _engine_maker(stored: StoredModel, quantization: str | None, lend: bool) -> Callable[[], Engine]:
    check_quantization(quantization, stored.quantization)
    if quantization and not stored.quantization:
        weights, lend = rounded_weights(stored, quantization), True  # files in the cache are replaced, never changed
    else:
        weights = engine_weights(stored)
        check_finite(weights)
    kept_as = "bfloat16" if next(iter(stored.weights.values())).dtype == "bfloat16" else "float32"
    storage = cast(Storage, quantization or stored.quantization or kept_as)
    return lambda: Engine(stored.config, weights, storage=storage, rows=MAX_ROWS, lend=lend)


def network_of(model: "Transformer") -> Network:
    """A network with the weights that a model has now: in C where that is faster."""
    from yinggem.inference.networks.torch_network import TorchNetwork
    from yinggem.model.quantization import quantization_of

    refusal = engine_refusal(model.config)
    if refusal or quantization_of(model) or model.config.parameters > LARGE:
        return TorchNetwork(model, refusal or "the model is in use")
    weights = {name: tensor.detach().float().cpu().numpy() for name, tensor in model.state_dict().items()}
    return EngineNetwork(model.config, lambda: Engine(model.config, weights, rows=MAX_ROWS))
