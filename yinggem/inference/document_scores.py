"""Which documents of a text are predicted best and worst."""

import heapq
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from yinggem.text.tokenizer import StreamDecoder, Tokenizer

RANKED = 10  # from each end
SHORTEST = 20  # bytes of a document, or of a line, that is ranked
BEGINNING = 60  # tokens that are kept of a document, to know it by


@dataclass(frozen=True)
class Document:
    """A document and what it cost; `number` counts from 1, `text` is its beginning."""

    number: int
    bits: float
    bytes: int
    text: str

    @property
    def bits_per_byte(self) -> float:
        """Comparable across documents, however long; its end is among its bits."""
        return self.bits / self.bytes


class DocumentScores:
    """Hears the tokens of a text and what they cost, and keeps the documents at both ends of the ranking.

    Args:
        tokenizer: one that marks documents.

    Attributes:
        count: documents that are complete; of those that are long enough, `ranked`.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer, self.count, self.ranked = tokenizer, 0, 0
        self._end, self._lengths = tokenizer.end_id, tokenizer.token_byte_lengths.astype(np.int64)
        self._worst, self._best = list[tuple[float, int, Document]](), list[tuple[float, int, Document]]()
        self._bits, self._bytes, self._beginning = 0.0, 0, list[int]()

    def add(self, targets: np.ndarray, nats: np.ndarray, counted: np.ndarray | None = None) -> None:
        """The next tokens of the text, of any shape, and float64 of each; `counted` says which count, None is all."""
        targets, nats = targets.ravel(), nats.ravel()
        counts = np.ones(len(targets), bool) if counted is None else counted.ravel()
        bits, sizes = np.where(counts, nats, 0) / math.log(2), np.where(counts, self._lengths[targets], 0)
        start = 0
        for stop in (np.flatnonzero(targets == self._end) + 1).tolist():
            self._take(targets[start:stop], bits[start:stop], sizes[start:stop])
            self._finish()
            start = stop
        self._take(targets[start:], bits[start:], sizes[start:])

    def _take(self, targets: np.ndarray, bits: np.ndarray, sizes: np.ndarray) -> None:
        self._bits += float(bits.sum())
        self._bytes += int(sizes.sum())
        self._beginning += targets[: BEGINNING - len(self._beginning)].tolist()

    def _finish(self) -> None:
        is_document = self._beginning != [self._end]  # a second mark stands where two splits meet
        self.count += is_document
        if self._bytes >= SHORTEST:
            self.ranked += 1
            decoder = StreamDecoder(self.tokenizer)
            text = "".join(decoder.push(token) for token in self._beginning if token != self._end)
            found = Document(self.count, self._bits, self._bytes, " ".join(text.split()))
            for heap, sign in ((self._worst, 1), (self._best, -1)):
                heapq.heappush(heap, (sign * found.bits_per_byte, -self.count, found))
                if len(heap) > RANKED:
                    heapq.heappop(heap)
        self._bits, self._bytes, self._beginning = 0.0, 0, []

    def ends(self) -> tuple[list[Document], list[Document]]:
        """The worst and the best, the most extreme first; no document is among both."""
        most = self.ranked // 2
        worst, best = ([found for *_, found in sorted(heap, reverse=True)[:most]] for heap in (self._worst, self._best))
        return worst, best

    def to_dict(self) -> dict[str, Any]:
        """As plain data."""
        worst, best = (
            [
                {"number": one.number, "bits_per_byte": one.bits_per_byte, "bytes": one.bytes, "text": one.text}
                for one in end
            ]
            for end in self.ends()
        )
        return {"count": self.count, "worst": worst, "best": best}
