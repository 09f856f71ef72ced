"""Encoding a text of any length on all cores, in bounded memory."""

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from yinggem.common.processors import usable_cores
from yinggem.text.bpe import pieces
from yinggem.text.tokenizer import Tokenizer


def encode_parallel(texts: Iterable[str], tokenizer: Tokenizer) -> Iterator[tuple[int, np.ndarray]]:
    """(characters, ids) of successive pieces of the text, in order; together exactly the ids of the whole text."""
    threads = usable_cores()
    waiting: deque[tuple[int, Future[np.ndarray]]] = deque()
    with ThreadPoolExecutor(threads) as pool:  # tiktoken releases the interpreter lock
        try:
            for piece in _stream_pieces(texts):
                waiting.append((len(piece), pool.submit(tokenizer.encode_marked, piece)))
                if len(waiting) > 8 * threads:
                    characters, future = waiting.popleft()
                    yield characters, future.result()
            for characters, future in waiting:
                yield characters, future.result()
        finally:
            pool.shutdown(cancel_futures=True)


def _stream_pieces(texts: Iterable[str]) -> Iterator[str]:
    """`bpe.pieces` of the joined texts: a chunk's last piece may be incomplete and waits for the next chunk."""
    rest = ""
    for text in texts:
        *complete, rest = [*pieces(rest + text)] or [""]
        yield from complete
    if rest:
        yield rest
