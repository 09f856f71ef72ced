"""Byte-pair encoding: GPT-2's vocabulary and split pattern, trained vocabularies, and where a text may be cut."""

import base64
import binascii
import os
import re
from collections.abc import Callable, Iterable, Iterator

import tiktoken

from yinggem.common.errors import UserError
from yinggem.text.assets import GPT2_RANKS, read_asset

# GPT-2's split pattern in the faster spelling of tiktoken's openai_public.py (same splits).
SPLIT_PATTERN = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"""
END_OF_TEXT = "<|endoftext|>"
MIN_VOCABULARY, MAX_VOCABULARY = 256, 1 << 20
MAX_TOKEN_BYTES = 64  # of a trained token; a corpus of ruled lines would otherwise learn the rules

# tiktoken's regex engine panics on a whitespace run of a million characters. A piece this long takes it milliseconds.
PIECE_CHARACTERS = 1 << 16
TRAINING_PIECE_CHARACTERS = 1 << 12  # the trainer's time grows with the square of the longest "word"
TRAINING_CHARACTERS = 50_000_000
_LAST_CUT = re.compile(r"(?s).*\S(?=[ \n])")


def pieces(text: str, limit: int = PIECE_CHARACTERS) -> Iterator[str]:
    """Cut `text` into pieces of at most `limit` characters without changing its tokens.

    The split pattern never joins a non-space character with the space or newline after it, so cutting there is
    exact. A stretch of more than `limit` characters without such a place is cut every `limit` characters: that bounds
    time and memory, and is part of what the tokenizers mean (no ordinary text has such a stretch).
    """
    start = 0
    while len(text) - start > limit:
        last_cut = _LAST_CUT.match(text, start, start + limit + 1)  # + 1: a cut may stand right at the limit
        end = last_cut.end() if last_cut else start + limit
        yield text[start:end]
        start = end
    if start < len(text):
        yield text[start:]


def build_encoding(tokens: list[bytes]) -> tiktoken.Encoding:
    """The tiktoken encoding whose token of rank and id i is `tokens[i]`."""
    # Nothing in a text ever encodes to the special token: tiktoken is never told to allow it.
    return tiktoken.Encoding(
        "yinggem",
        pat_str=SPLIT_PATTERN,
        mergeable_ranks={token: rank for rank, token in enumerate(tokens)},
        special_tokens={END_OF_TEXT: len(tokens)},
    )


def gpt2_tokens() -> list[bytes]:
    """GPT-2's 50,256 ordinary tokens by id, from the shipped, verified file."""
    return [binascii.a2b_base64(line.partition(b" ")[0]) for line in read_asset(GPT2_RANKS).splitlines()]


def train(texts: Callable[[], Iterable[str]], vocab_size: int, at_most: bool = False) -> list[bytes]:
    """Learn `vocab_size` tokens, the 256 bytes first, from at most 50 million characters spread over `texts()`.

    Deterministic. Where the text is too short to hold that many different tokens it learns what there are if `at_most`,
    and raises UserError otherwise.
    """
    # Set, so that forked data-loader workers do not print tokenizers' advice about it.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers  # slow to import, needed in training only

    model = Tokenizer(models.BPE())
    model.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        max_token_length=MAX_TOKEN_BYTES,
        show_progress=False,
    )
    sample = _spread_sample(texts, TRAINING_CHARACTERS)
    model.train_from_iterator((p for text in sample for p in pieces(text, TRAINING_PIECE_CHARACTERS)), trainer)
    vocabulary = model.get_vocab()
    if len(vocabulary) != vocab_size and not at_most:
        raise UserError(
            f"The training text is too short to learn tokenizer.vocab_size={vocab_size} tokens; "
            f"choose at most {len(vocabulary)}, tokenizer.at_most=true for as many as there are, or tokenizer=byte."
        )
    to_byte = byte_characters()
    return [bytes(to_byte[c] for c in token) for token in sorted(vocabulary, key=vocabulary.__getitem__)]


def _spread_sample(texts: Callable[[], Iterable[str]], limit: int) -> Iterator[str]:
    """The same share of every chunk, from its beginning; `limit` characters in all."""
    total = sum(len(text) for text in texts())
    for text in texts():
        yield text if total <= limit else text[: len(text) * limit // total]


def byte_characters() -> dict[str, int]:
    """The printable stand-ins of GPT-2's `bytes_to_unicode`, turned round: character -> byte."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(rest)}


def tokens_to_text(tokens: list[bytes]) -> str:
    """One base64 line per token, by id."""
    return "\n".join(base64.b64encode(token).decode("ascii") for token in tokens)


def tokens_from_text(text: str) -> list[bytes]:
    """Undo `tokens_to_text`; ValueError for anything that could not have come from `train`."""
    if text.count("\n") >= MAX_VOCABULARY or len(text) > MAX_VOCABULARY * 2 * MAX_TOKEN_BYTES:
        raise ValueError("too many tokens")
    try:
        tokens = [base64.b64decode(line, validate=True) for line in text.split("\n")]
    except binascii.Error as error:
        raise ValueError("not base64") from error
    if len(set(tokens)) != len(tokens) or not all(1 <= len(token) <= MAX_TOKEN_BYTES for token in tokens):
        raise ValueError("tokens repeat or have an impossible length")
    if {bytes([byte]) for byte in range(256)} != set(tokens[:256]):
        raise ValueError("the 256 bytes do not come first")
    return tokens
