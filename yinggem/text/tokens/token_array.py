"""One array of token ids in several memory-mapped pieces."""

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate

import numpy as np


class TokenArray:
    """Ids of a text, (N,) uint16 or uint32, in the pieces it was stored in; read-only.

    Args:
        turns: of a text of pairs: the ids of the end of a document, and of the turn from a prompt to its completion.
    """

    def __init__(self, pieces: Sequence[np.ndarray], dtype: np.dtype, turns: tuple[int, int] | None = None) -> None:
        self.pieces, self.dtype, self.turns = [piece for piece in pieces if len(piece)], np.dtype(dtype), turns
        self._starts = [0, *accumulate(map(len, self.pieces))]

    def __len__(self) -> int:
        return self._starts[-1]

    def __getitem__(self, wanted: slice) -> np.ndarray:
        """ids[start:stop] as one array: a view of the file, unless a border lies between."""
        views = self._views(wanted)
        return views[0] if len(views) == 1 else np.concatenate([np.empty(0, self.dtype), *views])

    def __add__(self, other: "TokenArray") -> "TokenArray":
        """These ids and then the others."""
        return TokenArray([*self.pieces, *other.pieces], self.dtype, self.turns)

    def part(self, start: int = 0, stop: int | None = None) -> "TokenArray":
        """ids[start:stop] without reading any."""
        return TokenArray(self._views(slice(start, stop)), self.dtype, self.turns)

    def _views(self, wanted: slice) -> list[np.ndarray]:
        start, stop, step = wanted.indices(len(self))
        if step != 1:
            raise ValueError("a slice of a TokenArray must have step 1")
        views, place = [], max(bisect_right(self._starts, start) - 1, 0)
        while start < stop and place < len(self.pieces):
            first = self._starts[place]
            views.append(self.pieces[place][start - first : stop - first])
            start, place = self._starts[place + 1], place + 1
        return views
