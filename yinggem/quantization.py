"""Weights as 8-bit integers: a quarter of the memory to read, which is what the speed of decoding is made of.

Every matrix w (rows, columns) is kept as round(w / scale) with one scale = max|w| / 127 for each row, that is for each
output channel (symmetric quantisation, as in Jacob et al. 2018), the embedding and the head included; norms and biases
stay as they are. On x86 the product is FBGEMM's, of int8 by int8 summed in int32. For it the inputs are quantised as
well, each row by its own largest value while it is multiplied, so a row's result never depends on its batch. That was
measured to be fastest, and what it costs in quality stands in benchmarks/quantization.py. Elsewhere (GPUs, processors
without FBGEMM) the weights are turned into floats for each product: as small, not faster, inputs not quantised.
"""

import functools
import math
import warnings
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from yinggem.errors import UserError
from yinggem.transformer import TiedHead, Transformer

KINDS = ("int8",)
INTEGERS, SCALE = ".integers", ".scale"  # ends of the names in a state dict
MOST = 127  # the largest integer of a weight
ROWS = 256  # quantized at once: the temporary fits the cache
TINY = torch.finfo(torch.float32).tiny  # the least scale: rows of zeros have one too
HUGE = torch.finfo(torch.float32).max / 128  # the largest: every weight is a finite number


def quantize(model: Transformer, kind: str = "int8") -> Transformer:
    """Replace the matrices of `model` in place, for inference only; returns it. A quantised model stays as it is.

    Raises:
        UserError: the kind is unknown, or the weights are not finite numbers.
    """
    if kind not in KINDS:
        raise UserError(f"quantize must be one of {', '.join(KINDS)}, not {str(kind)[:40]!r}.")
    if quantization_of(model):
        return model
    for name, parameter in model.named_parameters():
        if not parameter.is_meta and not all(math.isfinite(x.item()) for x in (parameter.amin(), parameter.amax())):
            raise UserError(f"The weights in {name} are not finite numbers: training diverged; use another checkpoint.")
    embedding = Int8Embedding(*quantized(model.embedding.weight))
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.Linear):
                setattr(module, name, Int8Linear(*quantized(child.weight), child.bias))
    if isinstance(model.head, TiedHead):
        model.head = Int8TiedHead(embedding, model.head.bias)  # type: ignore[assignment]
    model.embedding = embedding  # type: ignore[assignment]
    return model.requires_grad_(False)


def quantization_of(model: Transformer) -> str | None:
    """How the weights of `model` are kept: one of `KINDS`, or None for floats."""
    return "int8" if isinstance(model.embedding, Int8Embedding) else None


def quantized(weight: Tensor) -> tuple[Tensor, Tensor]:
    """(N, K) floats -> (N, K) int8 and (N,) float32 scales; |weight - integer * scale| <= scale / 2."""
    if weight.is_meta:  # shapes alone: arithmetic on "meta" imports a compiler for a second
        return torch.empty_like(weight, dtype=torch.int8), weight.new_empty(len(weight), dtype=torch.float32)
    weight = weight.detach().float()
    scale = (torch.maximum(-weight.amin(1), weight.amax(1)) / MOST).clamp_(min=TINY)  # aminmax takes six times as long
    integers = torch.empty_like(weight, dtype=torch.int8)
    for into, part, by in zip(integers.split(ROWS), weight.split(ROWS), scale.split(ROWS), strict=True):
        into.copy_((part / by[:, None]).round_())
    return integers, scale


def has_right_type(name: str, tensor: Tensor, quantized: bool) -> bool:
    """Whether an entry of a model's state dict has its dtype, the model being quantized or not."""
    if not quantized:
        return tensor.is_floating_point()
    return tensor.dtype == (torch.int8 if name.endswith(INTEGERS) else torch.float32)


def is_usable(name: str, tensor: Tensor) -> bool:
    """Whether the weights that an entry of a quantized model's state dict makes are finite numbers."""
    if name.endswith(SCALE):
        return bool(((tensor >= TINY) & (tensor <= HUGE)).all())
    return tensor.dtype == torch.int8 or bool(torch.isfinite(tensor).all())


@functools.cache
def has_fbgemm() -> bool:
    """Whether this torch, on this processor, multiplies by packed int8 matrices."""
    op = hasattr(torch.ops.quantized, "linear_with_input_q_dq_qweight_dq_output_fp32")
    return op and "fbgemm" in torch.backends.quantized.supported_engines


@functools.cache
def input_levels() -> int:
    """Integers of an input are -levels ... levels. Without VNNI, 8 bits of both overflow FBGEMM's 16-bit sums."""
    return 127 if torch.cpu._is_vnni_supported() else 63


class Int8Matrix(nn.Module):
    """A matrix (N, K) of integers with one scale for each row."""

    integers: Tensor  # (N, K) int8
    scale: Tensor  # (N,) float32

    def __init__(self, integers: Tensor, scale: Tensor) -> None:
        super().__init__()
        self.register_buffer("integers", integers)
        self.register_buffer("scale", scale)
        self._packed: tuple[Tensor | None, Any] = (None, None)  # the integers, as FBGEMM likes to read them

    @property
    def weight(self) -> Tensor:
        """(N, K) float32, made anew at every call."""
        return self.integers * self.scale[:, None]

    def multiply(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """(..., K) -> x @ weight.T + bias, (..., N), in the dtype of x."""
        if x.dtype != torch.float32 or not x.is_cpu or not has_fbgemm():
            return F.linear(x, self.weight.to(x.dtype), bias)
        levels = input_levels()
        rows = x.reshape(-1, x.size(-1))
        largest = torch.linalg.vector_norm(rows, torch.inf, -1, keepdim=True).clamp_min_(TINY)
        out = torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32(
            rows / largest, 1 / levels, levels + 1, self.packed()
        )
        out = out * largest if bias is None else torch.addcmul(bias, out, largest)
        return out.view(*x.shape[:-1], len(self.scale))

    def packed(self) -> Any:
        """The matrix in FBGEMM's order, made at the first product."""
        if self._packed[0] is not self.integers:
            self._packed = self.integers, _pack(self.integers, self.scale)
        return self._packed[1]


def _pack(integers: Tensor, scale: Tensor) -> Any:
    engine = torch.backends.quantized.engine
    torch.backends.quantized.engine = "fbgemm"
    try:
        with warnings.catch_warnings():  # quantised dtypes leave torch one day: has_fbgemm() will be false then
            warnings.simplefilter("ignore")
            zeros = torch.zeros(len(scale), dtype=torch.long)
            matrix = torch._make_per_channel_quantized_tensor(integers, scale.double(), zeros, 0)
            return torch.ops.quantized.linear_prepack(matrix, None)
    finally:
        torch.backends.quantized.engine = engine


class Int8Embedding(Int8Matrix):
    """nn.Embedding."""

    def forward(self, tokens: Tensor) -> Tensor:
        """Ids (...) -> (..., K) float32."""
        return self.integers[tokens] * self.scale[tokens][..., None]


class Int8Linear(Int8Matrix):
    """nn.Linear."""

    def __init__(self, integers: Tensor, scale: Tensor, bias: nn.Parameter | None) -> None:
        super().__init__(integers, scale)
        self.bias = bias

    def forward(self, x: Tensor) -> Tensor:
        """(..., K) -> (..., N)."""
        return self.multiply(x, self.bias)


class Int8TiedHead(nn.Module):
    """`TiedHead`: the embedding's matrix, and a bias of its own."""

    def __init__(self, embedding: Int8Embedding, bias: nn.Parameter | None) -> None:
        super().__init__()
        self._embedding = (embedding,)  # in a tuple: not registered a second time as a submodule
        self.bias = bias

    @property
    def weight(self) -> Tensor:
        """(V, D) float32."""
        return self._embedding[0].weight

    def forward(self, hidden: Tensor) -> Tensor:
        """(..., D) -> logits (..., V)."""
        return self._embedding[0].multiply(hidden, self.bias)
