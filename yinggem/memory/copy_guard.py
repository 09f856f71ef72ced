"""Which tokens may not come next, so that a text repeats no long stretch of the training text: `--max-copy`.

A stretch counts that ends in the output; what a person typed before it may be its beginning. The limit holds for every
beginning of the output, for generation may end anywhere: the last word counts as it stands, finished or not. So it does
not depend on how the text is cut into tokens either.
"""

import codecs
from bisect import bisect_left
from collections import deque
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from yinggem.memory.copy_index import CopyIndex
from yinggem.memory.stretches import Length

REPLACEMENT = "\ufffd"  # what bytes become that are no character


class Vocabulary:
    """The tokens, sorted: those that begin alike lie side by side.

    Args:
        tokens: the bytes of every id.
        longest: a token of more words (or characters) than this is looked at one by one.
    """

    def __init__(self, tokens: Sequence[bytes], longest: Length) -> None:
        self.tokens = tokens
        texts = [token.decode("utf-8", "replace") for token in tokens]
        self.all = _Sorted((token, number) for number, token in enumerate(tokens))
        spaces = [len(text[: len(text) - len(text.lstrip())].encode()) for text in texts]
        self.behind_space = _Sorted(
            (token[space:], number) for number, (token, space) in enumerate(zip(tokens, spaces, strict=True)) if space
        )
        self.long = [number for number, text in enumerate(texts) if len(longest.split(text)) > longest.count]
        self.broken = [number for number, text in enumerate(texts) if REPLACEMENT in text]
        self.continuing = [number for number, token in enumerate(tokens) if token[:1] and 0x80 <= token[0] < 0xC0]


class _Sorted:
    """Byte strings with their ids, in order."""

    def __init__(self, entries: Iterable[tuple[bytes, int]]) -> None:
        ordered = sorted(entries)
        self.keys = [key for key, _ in ordered]
        self.ids = np.array([number for _, number in ordered], np.int64)

    def beginning(self, text: str) -> np.ndarray:
        """Ids of those that begin with `text`, which is not empty."""
        low = text.encode()
        high = low[:-1] + bytes([low[-1] + 1])  # the last byte of a character is never the largest
        return self.ids[bisect_left(self.keys, low) : bisect_left(self.keys, high)]


class WordTail:
    """The last words of a text, at most as many as may be copied, and the one that may go on."""

    def __init__(self, training: CopyIndex, limit: int) -> None:
        self.training, self.limit = training, limit
        self.words: deque[str] = deque(maxlen=limit)
        self.open = ""

    def push(self, text: str) -> None:
        """The text goes on."""
        text = self.open + text
        words = text.split()
        self.open = words.pop() if words and not text[-1].isspace() else ""
        self.words.extend(words)

    def completions(self) -> tuple[list[str], list[str]]:
        """What may not come next: at once, and behind white space. Each begins with no white space."""
        begun = [word[len(self.open) :] for word in self._after(self.words) if word.startswith(self.open)]
        words = [*self.words, self.open] if self.open else [*self.words]
        return [text for text in begun if text], [*self._after(words)]

    def completes(self, text: str) -> bool:
        """Whether a copy that is too long ends somewhere in `text`, if it comes next."""
        words, begun = [*self.words], len(self.open)
        for word in (self.open + text).split():
            after = self._after(words)
            if after and any(word[:end] in after for end in range(begun + 1, len(word) + 1)):
                return True
            words, begun = [*words[-self.limit :], word], 0
        return False

    def _after(self, words: Iterable[str]) -> frozenset[str]:
        context = [*words][-self.limit :]
        return self.training.words_after(" ".join(context)) if len(context) == self.limit else frozenset()


class CharacterTail:
    """The last characters of a text, at most as many as may be copied."""

    def __init__(self, training: CopyIndex, limit: int) -> None:
        self.training, self.limit = training, limit
        self.sure = training.length.count  # characters that every copy shares with the tail, long tokens aside
        self.text = ""

    def push(self, text: str) -> None:
        """The text goes on."""
        self.text = (self.text + text)[-self.limit :]

    def completions(self) -> tuple[list[str], list[str]]:
        """What may not come next, and nothing: white space is a character like others."""
        return [*dict.fromkeys(self._completions())], []

    def _completions(self) -> Iterator[str]:
        text, tail = self.training.text, self.text
        for end in self.training.ends(tail[-self.sure :]):
            length, most = self.sure, min(len(tail), end)
            while length < most and text[end - length - 1] == tail[-length - 1]:
                length += 1
            missing = self.limit + 1 - length
            if end + missing <= len(text):
                yield text[end : end + missing]

    def completes(self, text: str) -> bool:
        """Whether a copy that is too long ends somewhere in `text`, if it comes next."""
        whole, size = self.text + text, self.limit + 1
        ends = range(max(size, len(self.text) + 1), len(whole) + 1)
        return any(self.training.ends(whole[end - size : end]) for end in ends)


class CopyLimit:
    """What the guards of one model share: the training text and the vocabulary, ready for one limit.

    Args:
        training: the whole training text in chunks.
        limit: stretches of more words (or characters) than this are not repeated.
        tokens: the bytes of every id.
    """

    def __init__(self, training: Iterable[str], limit: Length, tokens: Sequence[bytes]) -> None:
        self.limit = limit
        # Of a copy that ends in a token of k characters, the limit + 1 - k before it are in the text already.
        longest = max((len(token.decode("utf-8", "replace")) for token in tokens), default=1)
        sure = max(limit.count + 1 - longest, (limit.count + 1) // 2) if limit.characters else limit.count
        self.training = CopyIndex(training, Length(sure, limit.characters))
        self.vocabulary = Vocabulary(tokens, Length(limit.count + 1 - sure, limit.characters))
        self.has_replacements = REPLACEMENT in self.training.text
        self.unsure: list[int] = self.vocabulary.long  # ids of long tokens that are looked at in every step
        self.never: list[int] = []  # ids of tokens that are copies by themselves
        self.behind: dict[str, list[int]] = {}  # characters of the training text -> ids of long tokens that follow them
        if limit.characters:
            self._look_for_long_tokens(sure)

    def _look_for_long_tokens(self, sure: int) -> None:
        """Find in the training text what long tokens begin with: only behind the same characters they complete a copy.

        A token of T characters has the first `sure` of its own in every copy that it completes, and limit + 1 - T or
        more of the text before it.
        """
        long, self.unsure, most = self.vocabulary.long, [], self.limit.count
        for number in long:
            text = self.vocabulary.tokens[number].decode("utf-8", "replace")
            if REPLACEMENT in text:
                self.unsure.append(number)
            elif any(self.training.ends(text[end - most - 1 : end]) for end in range(most + 1, len(text) + 1)):
                self.never.append(number)
            else:
                before = max(1, most + 1 - len(text))
                starts = [end - sure for end in self.training.ends(text[:sure])]
                for known in {self.training.text[start - before : start] for start in starts if start >= before}:
                    self.behind.setdefault(known, []).append(number)
        self.sizes = sorted({len(known) for known in self.behind})

    def long_tokens(self, tail: "WordTail | CharacterTail") -> list[int]:
        """Ids of the long tokens that may complete a copy behind this tail."""
        if isinstance(tail, WordTail) or not self.behind:
            return self.unsure
        known = (self.behind.get(tail.text[-size:], []) for size in self.sizes)
        return [*self.unsure, *(number for numbers in known for number in numbers)]

    def tail(self) -> WordTail | CharacterTail:
        """The tail of a text that begins."""
        kind = CharacterTail if self.limit.characters else WordTail
        return kind(self.training, self.limit.count)


class CopyGuard:
    """Follows the texts of some rows and says which ids may not come next.

    Args:
        prompts: the text before the output, one for each row.
    """

    def __init__(self, shared: CopyLimit, prompts: Sequence[str]) -> None:
        self.shared = shared
        self.tails = [shared.tail() for _ in prompts]
        self.decoders = [codecs.getincrementaldecoder("utf-8")("replace") for _ in prompts]
        for tail, prompt in zip(self.tails, prompts, strict=True):
            tail.push(prompt)

    def add(self, row: int, token: int) -> None:
        """The id that came next in a row."""
        self.tails[row].push(self.decoders[row].decode(self.shared.vocabulary.tokens[token]))

    def forbidden(self, row: int) -> np.ndarray:
        """(K,) ids, each once or more, after which a copy in this row would be too long."""
        vocabulary, tail = self.shared.vocabulary, self.tails[row]
        half = self.decoders[row].getstate()[0]  # bytes of a character that is not complete
        now, later = tail.completions()
        found = [np.array(self.shared.never, np.int64)]
        if not half:
            found += [vocabulary.all.beginning(text) for text in now]
            found += [vocabulary.behind_space.beginning(text) for text in later]
        suspects = self._suspects(tail, bool(half), bool(now or later))
        texts = ((number, (half + vocabulary.tokens[number]).decode("utf-8", "replace")) for number in suspects)
        found.append(np.array([number for number, text in texts if tail.completes(text)], np.int64))
        return np.concatenate(found)

    def _suspects(self, tail: WordTail | CharacterTail, half: bool, near: bool) -> Iterable[int]:
        """Ids that are looked at one by one, because sorted bytes do not tell what their text will be."""
        vocabulary, long = self.shared.vocabulary, self.shared.long_tokens(tail)
        if self.shared.has_replacements:
            return range(len(vocabulary.tokens)) if half else {*long, *vocabulary.broken}
        return {*long, *vocabulary.continuing} if half and near else long
