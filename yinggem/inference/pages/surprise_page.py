"""A text with every token tinted by how surprising it was: one page that loads nothing and runs nothing."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from yinggem.common.errors import UserError
from yinggem.inference.document_scores import RANKED, SHORTEST, Document, DocumentScores
from yinggem.inference.evaluation import Evaluation, counted_up
from yinggem.inference.language_model import LanguageModel
from yinggem.inference.pages.self_contained import page_of, shown
from yinggem.text.tokenizer import StreamDecoder, Tokenizer
from yinggem.text.tokens.windows import Ids

MOST_TOKENS = 50_000  # on a page: a browser takes seconds to show more
LEVELS = 9  # tints, of a bit each
STYLE = "\n".join([
    ":root{color-scheme:light dark}",
    "body{font:16px/1.6 Georgia,serif;max-width:50em;margin:2em auto;padding:0 1em}",
    "pre{white-space:pre-wrap;overflow-wrap:anywhere;font:15px/1.7 monospace}",
    "td{padding:.2em .8em;vertical-align:top}td:first-child{text-align:right}",
    *(f".s{level}{{background:rgba(200,80,30,{level / LEVELS:.2f})}}" for level in range(LEVELS + 1)),
])  # fmt: skip


@dataclass(frozen=True)
class Piece:
    """Whole characters of a text, and the bits that they cost."""

    text: str
    bits: float
    bytes: int


def pieces_of(tokenizer: Tokenizer, ids: Iterable[int], nats: Iterable[float]) -> list[Piece]:
    """Tokens that hold parts of a character are put together.

    Args:
        nats: of every id.
    """
    decoder, lengths = StreamDecoder(tokenizer), tokenizer.token_byte_lengths
    found, bits, size = [], 0.0, 0
    for token, value in zip(ids, nats, strict=True):
        bits, size = bits + value / math.log(2), size + int(lengths[token])
        if text := decoder.push(token):
            found.append(Piece(text, bits, size))
            bits, size = 0.0, 0
    rest = decoder.finish()
    return [*found, Piece(rest, bits, size)] if rest or bits else found


def lines_of(pieces: Sequence[Piece]) -> list[Piece]:
    """The lines; a token belongs to the line in which it begins, and its bits with it."""
    lines: list[Piece] = []
    text, bits, size = "", 0.0, 0
    for piece in pieces:
        text, bits, size = text + piece.text, bits + piece.bits, size + piece.bytes
        if "\n" in piece.text:
            lines.append(Piece(text.strip(), bits, size))
            text, bits, size = "", 0.0, 0
    return [*lines, Piece(text.strip(), bits, size)] if text.strip() else lines


def ranked(pieces: Sequence[Piece]) -> tuple[list[Piece], list[Piece]]:
    """The lines with the most and with the fewest bits per byte, the most extreme first; short ones do not count."""
    lines = sorted(
        (line for line in lines_of(pieces) if line.bytes >= SHORTEST), key=lambda line: line.bits / line.bytes
    )
    count = min(RANKED, len(lines) // 2)
    return lines[::-1][:count], lines[:count]


def page_of_ids(title: str, model: LanguageModel, ids: Ids) -> str:
    """The page of a text as the model predicts it, with its memory if it has one.

    Args:
        ids: (N,) of the text; the first MOST_TOKENS are shown.

    Raises:
        UserError: there is nothing to predict.
    """
    read = ids[:MOST_TOKENS].astype(np.int64)
    if len(read) < 2:
        raise UserError(f"A text of {len(read)} tokens holds nothing to predict; name a longer one.")
    nats, tokenizer = model.nats_of(read), model.tokenizer
    pieces = pieces_of(tokenizer, read.tolist(), [0.0, *nats.tolist()])  # nothing precedes the first
    documents = None
    if tokenizer.end_id is not None:
        documents = DocumentScores(tokenizer)
        documents.add(read[1:], nats)
    note = "With the memory. " if model.memory else ""
    note += f"These are the first {len(read):,} of {len(ids):,} tokens." if len(read) < len(ids) else ""
    figures = counted_up(read[1:], nats, tokenizer.token_byte_lengths, None)
    return surprise_page(title, pieces, figures, note, documents)


def surprise_page(
    title: str, pieces: Sequence[Piece], figures: Evaluation, note: str = "", documents: DocumentScores | None = None
) -> str:
    """The page, as HTML.

    Args:
        figures: of the whole text.
        note: what the page leaves out.
        documents: those of the text; None where it is one.
    """
    body = "".join(
        f'<span class="s{level(piece)}" title="{piece.bits:.1f} bits">{shown(piece.text)}</span>' for piece in pieces
    )
    bits, nats = f"{figures.bits_per_byte:.4f} bits per byte", f"{figures.loss:.4f} nats per token"
    about = f"{bits}, {nats}, {figures.tokens:,} tokens. {note}"
    units: dict[str, Any] = {"documents": documents.ends() if documents else ([], []), "lines": ranked(pieces)}
    tables = "".join(
        table(f"The {which} surprising {unit}", end)
        for unit, ends in units.items()
        for which, end in zip(("most", "least"), ends, strict=True)
    )
    return page_of(
        title,
        f"<h1>{shown(title)}</h1>\n<p>{shown(about)}</p>\n{tables}"
        f"<h2>The text</h2>\n<p>The stronger its tint, the more a token surprised, up to {LEVELS} bits.</p>\n"
        f"<pre>{body}</pre>\n",
        STYLE,
    )


def table(title: str, parts: Sequence[Piece | Document]) -> str:
    """Parts of the text with their bits per byte; nothing where there are none."""
    if not parts:
        return ""
    rows = "".join(
        f"<tr><td>{part.bits / part.bytes:.2f}</td><td>{shown(part.text[:300])}</td></tr>\n" for part in parts
    )
    return f"<h2>{shown(title)}</h2>\n<table>\n<tr><th>bits per byte</th><th></th></tr>\n{rows}</table>\n"


def level(piece: Piece) -> int:
    """The tint."""
    return min(LEVELS, int(piece.bits))
