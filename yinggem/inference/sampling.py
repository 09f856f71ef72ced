"""How the next token is chosen: one frozen, validated dataclass, standard library only."""

from dataclasses import asdict, dataclass
from typing import Any

from yinggem.common.checks import check_number, check_whole_number


@dataclass(frozen=True)
class Sampling:
    """The settings of the sampling filters, in the order in which they are applied.

    Attributes:
        repetition_penalty: logits of ids seen before are divided by it where positive and multiplied where negative;
            1 is off.
        repetition_window: how many of the last ids count as seen, the prompt's included; None is all, 0 is off.
        no_repeat_ngram_size: no n-gram of this many ids occurs twice; 0 is off.
        temperature: logits are divided by it; 0 takes the likeliest token.
        top_k: only the k likeliest tokens; None or 0 is off.
        top_p: only the likeliest tokens that together reach this probability; None or 1 is off.
        min_p: only tokens at least this fraction as likely as the likeliest; None or 0 is off.
        typical_p: only the tokens whose surprise is nearest the expected one, to this probability; None or 1 is off.

    Raises:
        UserError: a value is out of range; the sentence names it and the remedy.
    """

    temperature: float = 0.9
    top_k: int | None = None
    top_p: float | None = 0.85
    min_p: float | None = None
    typical_p: float | None = None
    repetition_penalty: float = 1.2
    repetition_window: int | None = None
    no_repeat_ngram_size: int = 0

    def __post_init__(self) -> None:
        every = "use 1 for every token"
        check_number("temperature", self.temperature, 0, 1e6, remedy="use 0 for the likeliest token")
        # Beyond this range the logits themselves overflow, and no text is better for it.
        check_number("repetition_penalty", self.repetition_penalty, 0.01, 100, remedy="use 1 for none")
        check_number("top_p", self.top_p, 0, 1, excluded="low", optional=True, remedy=every)
        check_number("typical_p", self.typical_p, 0, 1, excluded="low", optional=True, remedy=every)
        check_number("min_p", self.min_p, 0, 1, optional=True, remedy="use 0 for every token")
        check_whole_number("top_k", self.top_k, 0, optional=True, remedy="use 0 for every token")
        check_whole_number("repetition_window", self.repetition_window, 0, optional=True, remedy="use 0 for no penalty")
        check_whole_number("no_repeat_ngram_size", self.no_repeat_ngram_size, 0, remedy="use 0 for no limit")

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for a record beside the text."""
        return asdict(self)


def default_repetition_penalty(tokenizer_name: str) -> float:
    """1.2, but none where the ids are letters: a penalty would forbid them."""
    return 1.0 if tokenizer_name in ("char", "byte") else Sampling.repetition_penalty
