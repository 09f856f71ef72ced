"""torch.optim.Adafactor with a faster step for large matrices on the CPU."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from yinggem.model.kernels.matmul import is_cpu_float32

LARGE = 1 << 19  # elements from which on a matrix is worth the blocks
BLOCK = 1 << 18  # elements that are worked on at a time: with their gradient they stay in the cache


class Adafactor(torch.optim.Adafactor):
    """torch.optim.Adafactor, taking large matrices in blocks of rows: the same update and state, to rounding.

    torch's step reads or writes a dozen arrays of the matrix's size from memory, this one the gradient and the weights
    three times each (benchmarks/optimizer.py). Source: Shazeer and Stern 2018, "Adafactor".
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step; the closure, if any, runs once with gradients enabled."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        large = [(p, p.grad, group) for group in self.param_groups for p in group["params"] if _is_large(p)]
        for p, _, _ in large:
            p.grad = None  # torch's step passes over those
        try:
            super().step()
        finally:
            for p, grad, _ in large:
                p.grad = grad
        for p, grad, group in large:
            self._step_matrix(p, -grad if group["maximize"] else grad, group)
        return loss

    def _step_matrix(self, p: Tensor, grad: Tensor, group: dict[str, Any]) -> None:
        state, (rows, columns) = self.state[p], p.shape
        if not state:
            state["step"] = torch.tensor(0.0)
            state["row_var"], state["col_var"] = grad.new_zeros(rows, 1), grad.new_zeros(1, columns)
        state["step"] += 1
        step, rate, (eps1, eps2) = state["step"].item(), float(group["lr"]), group["eps"]
        eps1 = torch.finfo(p.dtype).eps if eps1 is None else eps1
        blocks = _Blocks(grad)
        new = step ** group["beta2_decay"]
        for kept, mean in zip((state["row_var"], state["col_var"]), blocks.mean_squares(), strict=True):
            kept.lerp_(mean, new)
        row, column = state["row_var"], state["col_var"] / state["row_var"].mean().clamp_(min=eps1)
        size = sum(_square(update) for _, update in blocks.updates(row, column, eps1))
        weights = sum(_square(p[block]) for block in blocks.blocks)
        alpha = max(eps2, (weights / p.numel()) ** 0.5) * min(rate, step**-0.5)
        denominator = max(1.0, (size / p.numel()) ** 0.5 / group["d"])
        for block, update in blocks.updates(row, column, eps1):
            if group["weight_decay"]:
                p[block].mul_(1 - rate * group["weight_decay"])
            p[block].add_(update, alpha=-alpha / denominator)


def _is_large(p: Tensor) -> bool:
    plain = p.grad is not None and is_cpu_float32(p) and is_cpu_float32(p.grad)
    return plain and p.ndim == 2 and p.numel() > LARGE and p.is_contiguous()


def _square(block: Tensor) -> float:
    """The sum of the squares, by the one reduction that runs as fast as memory."""
    flat = block.flatten()
    return float(flat.dot(flat))


class _Blocks:
    """A gradient (rows, columns) in blocks of rows, and one buffer for what is made of a block."""

    def __init__(self, grad: Tensor) -> None:
        self.grad, size = grad, max(1, BLOCK // grad.size(1))
        self.blocks = [slice(start, start + size) for start in range(0, len(grad), size)]
        self.buffer = grad.new_empty(size, grad.size(1))

    def mean_squares(self) -> tuple[Tensor, Tensor]:
        """Of every row (rows, 1) and of every column (1, columns)."""
        rows, columns = self.grad.new_empty(len(self.grad)), self.grad.new_zeros(self.grad.size(1))
        ones = self.grad.new_ones(max(self.buffer.shape))
        for block in self.blocks:
            part = self.grad[block]
            squares = torch.mul(part, part, out=self.buffer[: len(part)])
            torch.mv(squares, ones[: squares.size(1)], out=rows[block])
            columns.addmv_(squares.t(), ones[: len(part)])
        return rows[:, None] / self.grad.size(1), columns[None] / len(self.grad)

    def updates(self, row: Tensor, column: Tensor, eps: float) -> Any:
        """Each block and its gradient over the root of row x column, which is at least eps; valid until the next."""
        row, column = row.rsqrt(), column.rsqrt()
        for block in self.blocks:
            part = self.grad[block]
            yield block, torch.mul(row[block], column, out=self.buffer[: len(part)]).clamp_(max=1 / eps).mul_(part)
