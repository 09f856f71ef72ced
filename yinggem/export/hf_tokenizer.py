"""Our tokenizers as tokenizer.json of the tokenizers library, with the same ids on any text, and back.

Four things are easily got wrong:

- tiktoken takes a piece that is a token as it is (`ignore_merges`), and merges any two neighbours that make a token.
  The library merges pairs that are listed, so every way to cut a token in two is listed.
- Characters are words of one letter, not byte pairs, and decode to text without spaces between them.
- `<|endoftext|>` is an ordinary entry that no text comes to: declared special, it would be found in ordinary text.
- Oniguruma, which the library splits with, reads `$` as the end of a line: GPT-2's own spelling has none.
"""

import json
from typing import Any

from yinggem.common.errors import UserError
from yinggem.text import bpe
from yinggem.text.tokenizer import BPETokenizer, ByteTokenizer, CharTokenizer, GPT2Tokenizer, Tokenizer, from_state_dict

ANY_CHARACTER = r"[\s\S]"
MAX_TOKENS = 1 << 21
LEFT_OUT = ("version", "truncation", "padding")  # what other software may write without changing an id


def tokenizer_json(tokenizer: Tokenizer) -> str:
    """The content of tokenizer.json. A template for prompts has no place there."""
    from tokenizers import Regex, decoders, models, pre_tokenizers
    from tokenizers import Tokenizer as Library

    if isinstance(tokenizer, CharTokenizer):
        words = {token.decode() or bpe.END_OF_TEXT: number for number, token in enumerate(tokenizer.tokens)}
        made = Library(models.WordLevel(words, unk_token=""))  # there is no such word: unseen characters are refused
        made.pre_tokenizer = pre_tokenizers.Split(Regex(ANY_CHARACTER), "isolated")
        made.decoder = decoders.Fuse()
    else:
        characters = byte_names(tokenizer.tokens)
        pairs = merges(tokenizer)
        vocabulary = {name: number for number, name in enumerate(characters)}
        made = Library(models.BPE(vocabulary, pairs, ignore_merges=bool(pairs)))
        made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=bool(pairs))
        made.decoder = decoders.ByteLevel()
    text: str = made.to_str(pretty=True)
    return text


def byte_names(tokens: list[bytes]) -> list[str]:
    """Tokens as GPT-2 spells them: a printable character for every byte. The end of a text is `<|endoftext|>`."""
    names = {byte: character for character, byte in bpe.byte_characters().items()}
    return ["".join(names[byte] for byte in token) or bpe.END_OF_TEXT for token in tokens]


def merges(tokenizer: Tokenizer) -> list[tuple[str, str]]:
    """Every pair of tokens that makes a token, in the order in which tiktoken merges; none of bytes."""
    ordinary = tokenizer.tokens[:-1] if tokenizer.name == GPT2Tokenizer.name else tokenizer.tokens
    tokens = [token for token in ordinary if token]
    numbers, found = {token: number for number, token in enumerate(tokens)}, []
    for token in tokens:
        cuts = ((token[:cut], token[cut:]) for cut in range(1, len(token)))
        pairs = [(left, right) for left, right in cuts if left in numbers and right in numbers]
        pairs.sort(key=lambda pair: (numbers[pair[0]], numbers[pair[1]]))
        found += pairs
    names = dict(zip(tokens, byte_names(tokens), strict=True))
    return [(names[left], names[right]) for left, right in found]


def read_tokenizer(content: str, place: str, has_ends: bool = False) -> Tokenizer:
    """The tokenizer that a tokenizer.json is exactly.

    Args:
        place: the file, for the sentence.
        has_ends: whether `<|endoftext|>` stands behind every document.

    Raises:
        UserError: it is none of ours: another split pattern, special tokens, a normalizer, and the like.
    """
    try:
        wanted = json.loads(content)
        tokenizer = _guess(wanted["model"], has_ends)
        same = _meaning(wanted) == _meaning(json.loads(tokenizer_json(tokenizer)))
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        same = False
    if not same:
        raise UserError(
            f"{place} describes a tokenizer that YingGem does not have: it is not GPT-2's, no byte-level BPE with its "
            "split pattern and all of its merges, and neither characters nor bytes; only such folders can be imported."
        )
    return tokenizer


def _guess(model: dict[str, Any], has_ends: bool) -> Tokenizer:
    """The only tokenizer of ours that may have such a vocabulary."""
    names = sorted(model["vocab"], key=model["vocab"].__getitem__)
    if len(names) > MAX_TOKENS:
        raise ValueError("too many tokens")
    marking = {"documents": True} if has_ends else {}
    for kind in (GPT2Tokenizer, ByteTokenizer):
        known = from_state_dict({"name": kind.name, **marking})
        if len(names) == known.vocab_size and names == byte_names(known.tokens):
            return known
    if has_ends and names.pop() != bpe.END_OF_TEXT:
        raise ValueError("no end")
    if model["type"] == "WordLevel":
        return from_state_dict({"name": CharTokenizer.name, "characters": "".join(names), **marking})
    to_byte = bpe.byte_characters()
    tokens = [bytes(to_byte[character] for character in name) for name in names]
    return from_state_dict({"name": BPETokenizer.name, "tokens": bpe.tokens_to_text(tokens), **marking})


def _meaning(content: dict[str, Any]) -> dict[str, Any]:
    model = dict(content["model"])
    if "merges" in model:  # earlier versions of the library wrote "a b"
        model["merges"] = [pair.split(" ") if isinstance(pair, str) else pair for pair in model["merges"]]
    return {name: value for name, value in content.items() if name not in LEFT_OUT} | {"model": model}
