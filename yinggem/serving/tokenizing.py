"""/tokenizer_info, /tokenize and /detokenize, in vLLM's form, which lm-evaluation-harness asks for."""

from typing import Any

from yinggem.common.errors import UserError
from yinggem.inference.completion import prompt_ids
from yinggem.text.tokenizer import Tokenizer

END = "<|endoftext|>"  # what the end of a document is called, of which no text holds the id


def tokenizer_info(tokenizer: Tokenizer) -> dict[str, Any]:
    """What a client has to know. The token before a text is what an empty prompt is continued from."""
    first = tokenizer.decode(prompt_ids(tokenizer, "")[:1]) if tokenizer.end_id is None else END
    return {
        "tokenizer_class": tokenizer.name,
        "vocab_size": tokenizer.vocab_size,
        "bos_token": first,
        "eos_token": first,
        "pad_token": None,
        "chat_template": None,
    }


def tokenize(content: dict[str, Any], tokenizer: Tokenizer) -> dict[str, Any]:
    """Ids of the text under "prompt".

    Raises:
        UserError: there is none, or it cannot be encoded.
    """
    text = content.get("prompt")
    if not isinstance(text, str):
        raise UserError(f"prompt must be a text, not {text!r:.60}.")
    # The mark alone is its id, as a client asks for it; within a text it is text.
    ids = [tokenizer.end_id] if text == END and tokenizer.end_id is not None else tokenizer.encode(text)
    names = [tokenizer.decode([token]) for token in ids] if content.get("return_token_strs") else None
    return {"count": len(ids), "tokens": ids, "token_strs": names}


def detokenize(content: dict[str, Any], tokenizer: Tokenizer) -> dict[str, Any]:
    """The text of the ids under "tokens".

    Raises:
        UserError: there are none, or they are not ids of this tokenizer.
    """
    ids = content.get("tokens")
    if not (isinstance(ids, list) and all(type(token) is int for token in ids)):
        raise UserError(f"tokens must be a list of ids, not {ids!r:.60}.")
    return {"prompt": tokenizer.decode(ids)}
