"""The page of surprises: the text and nothing but the text, whatever is in it, with the figures of the scores."""

import base64
import hashlib
import math
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from yinggem.inference.evaluation import Evaluation
from yinggem.inference.pages.surprise_page import LEVELS, Piece, lines_of, pieces_of, ranked, surprise_page
from yinggem.text.tokenizer import ByteTokenizer

HOSTILE = '<script>alert(1)</script>\n"><img src=x onerror=alert(1)>\n</pre></span> & &lt; 水の音 \N{GRINNING FACE}\n'


class Reader(HTMLParser):
    """Which elements a browser would make, and the text inside <pre>."""

    def __init__(self) -> None:
        super().__init__()
        self.tags, self.attributes, self.text, self.inside, self.style = set[str](), set[str](), "", "", ""

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        self.inside = tag if tag in ("pre", "style") else self.inside
        for name, value in attrs:
            if name == "content" and "default-src" in value:
                self.policy = value

    def handle_endtag(self, tag):
        self.inside = "" if tag == self.inside else self.inside

    def handle_data(self, data):
        self.text += data if self.inside == "pre" else ""
        self.style += data if self.inside == "style" else ""


def page_of(text: str) -> tuple[str, Reader]:
    ids = ByteTokenizer().encode(text)
    pieces = pieces_of(ByteTokenizer(), ids, np.linspace(0, 9, len(ids)))
    page = surprise_page(text[:20], pieces, Evaluation(1.0, len(ids), len(ids)))
    reader = Reader()
    reader.feed(page)
    return page, reader


def test_hostile_text_stays_text():
    _, found = page_of(HOSTILE)
    assert found.tags <= {
        "html",
        "head",
        "meta",
        "title",
        "style",
        "body",
        "h1",
        "h2",
        "p",
        "table",
        "tr",
        "th",
        "td",
        "pre",
        "span",
    }
    assert not {name for name in found.attributes if name.startswith("on")} | (
        found.attributes & {"src", "href", "style"}
    )
    assert found.text == HOSTILE


def test_the_policy_allows_this_style_and_nothing_else():
    page, found = page_of(HOSTILE)
    digest = base64.b64encode(hashlib.sha256(found.style.encode()).digest()).decode()
    assert found.policy.startswith(f"default-src 'none'; style-src 'sha256-{digest}'")
    assert not re.search(r"https?:|url\(|@import", page)


def test_pieces_are_whole_characters_with_the_bits_of_their_tokens():
    text = "aé水\N{GRINNING FACE}!"
    ids = ByteTokenizer().encode(text)
    pieces = pieces_of(ByteTokenizer(), ids, [math.log(2)] * len(ids))
    assert [piece.text for piece in pieces] == list(text)
    assert [piece.bits for piece in pieces] == pytest.approx([len(c.encode()) for c in text])
    cut = pieces_of(ByteTokenizer(), ids[:2], [1.0, 1.0])
    assert "".join(piece.text for piece in cut) == "a�" and sum(piece.bytes for piece in cut) == 2


def test_lines_are_ranked_by_bits_per_byte():
    pieces = [Piece(f"line number {k}, long enough.\n", bits, 27) for k, bits in enumerate([5, 80, 30, 60])]
    worst, best = ranked([*pieces, Piece("short\n", 99, 6)])
    assert [line.bits for line in worst] == [80, 60] and [line.bits for line in best] == [5, 30]
    assert sum(line.bits for line in lines_of(pieces)) == sum(piece.bits for piece in pieces)


def test_the_more_surprising_the_darker():
    page, _ = page_of("abcdefghijklmnopqrstuvwxyz" * 4)
    levels = [int(found) for found in re.findall(r'class="s(\d+)"', page)]
    assert levels == sorted(levels) and levels[0] == 0 and levels[-1] == LEVELS
