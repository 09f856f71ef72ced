"""The tokens of a text, their log-probabilities and where each begins in it, as the completions protocol has them."""

import codecs
from typing import Any, NamedTuple

import numpy as np

from yinggem.text.tokenizer import Tokenizer

LEAST = -9999.0  # JSON has no minus infinity


class LoggedToken(NamedTuple):
    """A token, where it begins in the text (characters), how likely it was (nats), and the likeliest beside it.

    `logprob` and `top` are None where nothing stands before the token.
    """

    name: str
    offset: int
    logprob: float | None
    top: dict[str, float] | None


class TokenLog:
    """Records the tokens of a text as they are drawn. It is a step of generation that changes nothing.

    Args:
        tops: how many of the likeliest tokens are kept beside each.
        begun: the bytes before the text that begin a character, which its first token completes.
        length: characters of the text before its first token.
    """

    def __init__(self, tokenizer: Tokenizer, tops: int = 0, begun: bytes = b"", length: int = 0) -> None:
        self.tokenizer, self.tops = tokenizer, tops
        self.total = 0.0  # log-probability of all that were drawn
        self._logs: np.ndarray | None = None
        self._tokens: list[LoggedToken] = []
        self._given, self._length = 0, length  # tokens handed out, characters that are complete
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._decoder.decode(begun)

    def apply(self, logits: np.ndarray) -> np.ndarray:
        """Note what the next token (V,) is drawn from."""
        self._logs = log_probabilities(logits)
        return logits

    def add(self, token: int) -> None:
        """The next id, of the distribution noted last, if one was noted since the id before."""
        logs, self._logs = self._logs, None
        logprob, top = None, None
        if logs is not None:
            logprob = max(float(logs[token]), LEAST)
            self.total += logprob
            top = {self._name(number): max(float(logs[number]), LEAST) for number in likeliest(logs, self.tops)}
            top[self._name(token)] = logprob
        self._tokens.append(LoggedToken(self._name(token), self._place(token), logprob, top))

    def take(self, length: int | None) -> list[LoggedToken]:
        """The tokens that begin before character `length`, or all, without those that were taken before."""
        found = []
        while self._given < len(self._tokens) and (length is None or self._tokens[self._given].offset < length):
            found.append(self._tokens[self._given])
            self._given += 1
        return found

    def _place(self, token: int) -> int:
        """Where a token begins, which is now read: with its character, if it only continues one."""
        content, pending = self.tokenizer.tokens[token], self._decoder.getstate()[0]
        begins_anew = pending and content and not 0x80 <= content[0] < 0xC0  # what was pending stays half a character
        place = self._length + (len(pending.decode("utf-8", "replace")) if begins_anew else 0)
        self._length += len(self._decoder.decode(content))
        return place

    def _name(self, token: int) -> str:
        content = self.tokenizer.tokens[token]
        return token_name(content) if content else f"<{token}>"  # a mark, which stands for no text


def token_name(content: bytes) -> str:
    """The text of a token; as OpenAI writes it where that is a part of a character only: no two tokens share a name."""
    try:
        return content.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in content)


def log_probabilities(logits: np.ndarray) -> np.ndarray:
    """(V,) float32 -> (V,) float64."""
    values = logits.astype(np.float64)
    values -= values.max()
    values -= np.log(np.exp(values).sum())
    return values


def likeliest(logs: np.ndarray, count: int) -> list[int]:
    """Ids of the `count` largest of (V,), the likeliest first."""
    if count == 0:
        return []
    found = np.argpartition(-logs, min(count, len(logs)) - 1)[:count]
    ordered: list[int] = found[np.argsort(-logs[found], kind="stable")].tolist()
    return ordered


def legacy_logprobs(tokens: list[LoggedToken]) -> dict[str, Any]:
    """As the `logprobs` of a choice."""
    return {
        "tokens": [token.name for token in tokens],
        "token_logprobs": [token.logprob for token in tokens],
        "top_logprobs": [token.top for token in tokens],
        "text_offset": [token.offset for token in tokens],
    }


def unfinished(tokenizer: Tokenizer, ids: list[int]) -> bytes:
    """The bytes at the end of a text that begin a character and do not complete it."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    decoder.decode(tokenizer.decode_bytes(ids[-16:]))  # a character has four bytes; marks have none
    return decoder.getstate()[0]
