"""A matrix (N, K) of small integers: how it is rounded, kept, and multiplied by the packed kernels of torch."""

import functools
import warnings
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from yinggem.model.kernels.matmul import linear
from yinggem.model.weights import GROUP, MAX_SCALE, MAX_ZERO, MIN_SCALE

INT8_MAX, INT4_MAX = 127, 15  # the largest integers of 8 bits and of 4
ROWS = 256  # quantized at once: the temporary fits the cache
PADDED = 32  # torch's kernel for 4 bits takes so many rows at a time


@functools.cache
def has_fbgemm() -> bool:
    """Whether this torch, on this processor, multiplies by packed int8 matrices."""
    op = hasattr(torch.ops.quantized, "linear_with_input_q_dq_qweight_dq_output_fp32")
    return op and "fbgemm" in torch.backends.quantized.supported_engines


@functools.cache
def has_int4_kernel() -> bool:
    """Whether this torch, on this processor, multiplies by packed 4-bit matrices faster than by floats."""
    ops = torch.ops.aten
    there = hasattr(ops, "_weight_int4pack_mm_for_cpu") and hasattr(ops, "_convert_weight_to_int4pack_for_cpu")
    return there and torch.backends.cpu.get_cpu_capability().startswith("AVX")


@functools.cache
def input_levels() -> int:
    """Integers of an input are -levels ... levels. Without VNNI, 8 bits of both overflow FBGEMM's 16-bit sums."""
    return 127 if torch.cpu._is_vnni_supported() else 63


class QuantizedMatrix(nn.Module):
    """What `Int8Matrix` and `Int4Matrix` have in common: made from floats (N, K), multiplied packed where it pays."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        for name, tensor in self._round(weight).items():
            self.register_buffer(name, tensor)
        self._packed: tuple[Tensor | None, Any] = (None, None)

    @property
    def weight(self) -> Tensor:
        """(N, K) float32, made anew at every call."""
        return self.look_up(slice(None))

    def look_up(self, rows: Tensor | slice) -> Tensor:
        """Row numbers (...) -> those rows (..., K) float32."""
        raise NotImplementedError

    def multiply(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """(..., K) -> x @ weight.T + bias, (..., N), in the dtype of x."""
        if x.dtype != torch.float32 or not x.is_cpu or not self._suits_kernel(x):
            return linear(x, self.weight.to(x.dtype), bias)
        out = self._multiply(x.reshape(-1, x.size(-1)), bias)
        return out.view(*x.shape[:-1], out.size(-1))

    def _round(self, weight: Tensor) -> dict[str, Tensor]:
        raise NotImplementedError

    def _suits_kernel(self, x: Tensor) -> bool:
        raise NotImplementedError

    def _multiply(self, rows: Tensor, bias: Tensor | None) -> Tensor:
        raise NotImplementedError

    def _pack(self, integers: Tensor) -> Any:
        raise NotImplementedError

    def _packed_once(self, integers: Tensor) -> Any:
        """The integers in the kernel's order, made at the first product."""
        if self._packed[0] is not integers:
            self._packed = integers, self._pack(integers)
        return self._packed[1]


class Int8Matrix(QuantizedMatrix):
    """round(w / scale) with one scale = max|w| / 127 a row, multiplied by FBGEMM: int8 by int8, summed in int32.

    The inputs are quantised as well, each row by its own largest value while it is multiplied, so a row's result never
    depends on its batch. (Symmetric quantisation, as in Jacob et al. 2018.)
    """

    integers: Tensor  # (N, K) int8
    scale: Tensor  # (N,) float32

    def _round(self, weight: Tensor) -> dict[str, Tensor]:
        return dict(zip(("integers", "scale"), quantize_int8(weight), strict=True))

    def look_up(self, rows: Tensor | slice) -> Tensor:
        """Row numbers (...) -> those rows (..., K) float32."""
        return self.integers[rows] * self.scale[rows][..., None]

    def _suits_kernel(self, x: Tensor) -> bool:
        return has_fbgemm()

    def _multiply(self, rows: Tensor, bias: Tensor | None) -> Tensor:
        levels = input_levels()
        largest = torch.linalg.vector_norm(rows, torch.inf, -1, keepdim=True).clamp_min_(MIN_SCALE)
        out = torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32(
            rows / largest, 1 / levels, levels + 1, self._packed_once(self.integers)
        )
        return out * largest if bias is None else torch.addcmul(bias, out, largest)

    def _pack(self, integers: Tensor) -> Any:
        engine = torch.backends.quantized.engine
        torch.backends.quantized.engine = "fbgemm"
        try:
            with warnings.catch_warnings():  # torch will remove quantised dtypes: has_fbgemm() is false then
                warnings.simplefilter("ignore")
                zeros = torch.zeros(len(integers), dtype=torch.long)
                matrix = torch._make_per_channel_quantized_tensor(integers, self.scale.double(), zeros, 0)
                return torch.ops.quantized.linear_prepack(matrix, None)
        finally:
            torch.backends.quantized.engine = engine


class Int4Matrix(QuantizedMatrix):
    """Integers 0 ... 15 that mean (integer - 8) * scale + zero; every 32 columns of a row have a scale and a zero.

    One token of each sequence is multiplied by torch's `_weight_int4pack_mm_for_cpu`, which takes inputs in bfloat16
    and sums in float32, row by row. A prompt is multiplied by floats, whatever its length, so that a result never
    depends on what else is in the batch. (Rounding to nearest in groups, as Dettmers and Zettlemoyer 2023.)

    The columns are a multiple of 32.
    """

    nibbles: Tensor  # (N, K / 2) uint8: an even column in the low half of a byte, the odd one after it in the high half
    scale: Tensor  # (N, K / 32) bfloat16
    zero: Tensor  # (N, K / 32) bfloat16

    def _round(self, weight: Tensor) -> dict[str, Tensor]:
        return dict(zip(("nibbles", "scale", "zero"), quantize_int4(weight), strict=True))

    def look_up(self, rows: Tensor | slice) -> Tensor:
        """Row numbers (...) -> those rows (..., K) float32."""
        groups = (_unpack_nibbles(self.nibbles[rows]).float() - 8).unflatten(-1, (-1, GROUP))
        scale, zero = (shared[rows].float()[..., None] for shared in (self.scale, self.zero))
        return torch.addcmul(zero, groups, scale).flatten(-2)

    def _suits_kernel(self, x: Tensor) -> bool:
        return (x.ndim < 3 or x.size(-2) == 1) and has_int4_kernel()

    def _multiply(self, rows: Tensor, bias: Tensor | None) -> Tensor:
        packed, scale_and_zero = self._packed_once(self.nibbles)
        out = torch.ops.aten._weight_int4pack_mm_for_cpu(rows.bfloat16(), packed, GROUP, scale_and_zero)
        out = out[:, : len(self.nibbles)]
        result: Tensor = out.float() if bias is None else out + bias
        return result

    def _pack(self, integers: Tensor) -> tuple[Tensor, Tensor]:
        more = -len(integers) % PADDED
        columns = F.pad(_unpack_nibbles(integers).int(), (0, 0, 0, more))
        scale_and_zero = F.pad(torch.stack((self.scale, self.zero), dim=-1), (0, 0, 0, 0, 0, more))
        packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(columns, 1)
        return packed, scale_and_zero.transpose(0, 1).contiguous()  # (K / 32, N, 2)


def quantize_int8(weight: Tensor) -> tuple[Tensor, Tensor]:
    """(N, K) floats -> (N, K) int8 and (N,) float32 scales; |weight - integer * scale| <= scale / 2."""
    if weight.is_meta:  # shapes alone: arithmetic on "meta" imports a compiler for a second
        return torch.empty_like(weight, dtype=torch.int8), weight.new_empty(len(weight), dtype=torch.float32)
    weight = weight.detach().float()
    largest = torch.maximum(-weight.amin(1), weight.amax(1))  # aminmax takes six times as long
    scale = (largest / INT8_MAX).clamp_(min=MIN_SCALE)
    integers = torch.empty_like(weight, dtype=torch.int8)
    for into, part, by in zip(integers.split(ROWS), weight.split(ROWS), scale.split(ROWS), strict=True):
        into.copy_((part / by[:, None]).round_())
    return integers, scale


def quantize_int4(weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(N, K) floats -> nibbles (N, K / 2) uint8, scale and zero (N, K / 32) bfloat16, as `Int4Matrix` keeps them.

    The integers are chosen for the scale and the zero as bfloat16 rounds them, so that this adds no error of its own
    beyond the ends of the range.
    """
    size, columns = weight.shape
    nibbles = weight.new_empty(size, columns // 2, dtype=torch.uint8)
    scale, zero = (weight.new_empty(size, columns // GROUP, dtype=torch.bfloat16) for _ in range(2))
    if weight.is_meta:
        return nibbles, scale, zero
    parts = zip(weight.detach().split(ROWS), nibbles.split(ROWS), scale.split(ROWS), zero.split(ROWS), strict=True)
    for part, into, by, middle in parts:
        groups = part.float().unflatten(1, (-1, GROUP))
        low, high = groups.amin(-1), groups.amax(-1)
        by.copy_((high / INT4_MAX - low / INT4_MAX).clamp_(MIN_SCALE, MAX_SCALE))
        middle.copy_((low + 8 * by.float()).clamp_(-MAX_ZERO, MAX_ZERO))
        integers = ((groups - middle.float()[..., None]) / by.float()[..., None]).round_().add_(8).clamp_(0, INT4_MAX)
        pairs = integers.flatten(1).to(torch.uint8)
        into.copy_(pairs[:, ::2] | pairs[:, 1::2] << 4)
    return nibbles, scale, zero


def _unpack_nibbles(nibbles: Tensor) -> Tensor:
    """(..., K / 2) bytes -> (..., K) uint8, 0 ... 15."""
    return torch.stack((nibbles & 15, nibbles >> 4), dim=-1).flatten(-2)
