"""With which words a text, or one like it, may begin."""

from collections import Counter

import numpy as np

from yinggem.text.marks import PLACE
from yinggem.text.vocabulary import Tokenizer

SEARCHED = 1 << 16  # tokens of a text that are enough to find a beginning in
LONGEST = 40  # characters of a beginning


def opening_of(ids: np.ndarray, tokenizer: Tokenizer) -> str:
    """The first words of a line of ids (N,), with which a text like it may begin; empty where there are none.

    Of all beginnings of up to three words the commonest is taken: in a play it is who speaks, in a poem a refrain. Of
    pairs it is a whole prompt.
    """
    texts = documents_of(ids, tokenizer)
    if tokenizer.template is not None:
        before, after = tokenizer.template.split(PLACE)
        beginnings = Counter(text.removeprefix(before).removesuffix(after).strip() for text in texts)
    else:
        lines = [line for text in texts for line in text.split("\n")]
        whole = lines[:-1] or lines  # the last one may be cut
        beginnings = Counter(" ".join(line.split()[:3])[:LONGEST].strip() for line in whole)
    usable = [text for text, _ in beginnings.most_common() if text.isprintable() and any(map(str.isalpha, text))]
    return usable[0] if usable else ""


def documents_of(ids: np.ndarray, tokenizer: Tokenizer) -> list[str]:
    """The documents in ids (N,), of pairs their prompts; one text where documents are not told apart."""
    if tokenizer.end_id is None:
        return [tokenizer.decode(ids.tolist())]
    pieces = np.split(ids, np.flatnonzero(ids == tokenizer.end_id))
    return [tokenizer.decode(piece[: before_turn(piece, tokenizer)].tolist()) for piece in pieces if len(piece) > 1]


def before_turn(ids: np.ndarray, tokenizer: Tokenizer) -> int:
    """How many of the ids (N,) stand before a completion."""
    if tokenizer.turn_id is None:
        return len(ids)
    turns = np.flatnonzero(ids == tokenizer.turn_id)
    return int(turns[0]) if len(turns) else len(ids)
