"""The beginning that is offered is one that the text has."""

import numpy as np
import pytest

from yinggem.text.marks import PLACE
from yinggem.text.opening import opening_of
from yinggem.text.tokenizer import ByteTokenizer


@pytest.mark.parametrize(("text", "opening"), [
    ("MARY.\nI am here, and you are not.\nMARY.\nWhere?\nJOHN.\n", "MARY."),
    ("  the sea is wide\nand the sea\n", "the sea is"), ("1\n2\n3\n", ""), ("no line end", "no line end"),
    ("道可道,非常道。\n", "道可道,非常道。"), ("\x07bell\nit's\n", "it's"),
])  # fmt: skip
def test_the_next_command_begins_with_words_of_the_text(text, opening):
    assert opening_of(np.array(ByteTokenizer().encode(text)), ByteTokenizer()) == opening


@pytest.mark.parametrize("template", [PLACE, f"Q: {PLACE}\nA: "])
def test_of_pairs_it_is_a_prompt_as_it_is_typed_and_of_documents_words_of_one(template):
    tokenizer = ByteTokenizer()
    tokenizer.mark_documents(template)
    pairs = [("what is two plus two", "four"), ("what is one plus five", "six")]
    ids = [tokenizer.end_id]
    for prompt, completion in pairs:
        ids += [*tokenizer.encode(template.replace(PLACE, prompt)), tokenizer.turn_id]
        ids += [*tokenizer.encode(completion), tokenizer.end_id]
    assert opening_of(np.array(ids), tokenizer) == pairs[0][0]

    tokenizer = ByteTokenizer()
    tokenizer.mark_documents()
    ids = [i for text in ("sea", "sky", "sea") for i in (*tokenizer.encode(text), tokenizer.end_id)]
    assert opening_of(np.array(ids), tokenizer) == "sea"
