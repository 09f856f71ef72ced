"""No long copies of the training text: `CopyGuard` as a step of generation."""

from torch import Tensor, from_numpy, inf

from yinggem.memory.copy_guard import CopyGuard


class CopyStep:
    """Forbids the ids that `guard` names, row by row."""

    def __init__(self, guard: CopyGuard) -> None:
        self.guard = guard

    def apply(self, logits: Tensor) -> Tensor:
        """Logits (B, V) with -inf for every id that would complete a copy."""
        forbidden = [self.guard.forbidden(row) for row in range(len(logits))]
        if not any(map(len, forbidden)):
            return logits
        logits = logits.clone()
        for row, ids in enumerate(forbidden):
            logits[row, from_numpy(ids).to(logits.device)] = -inf
        return logits

    def add(self, tokens: Tensor) -> None:
        """The next ids (B,)."""
        for row, token in enumerate(tokens.tolist()):
            self.guard.add(row, token)
