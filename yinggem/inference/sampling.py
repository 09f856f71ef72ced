"""How the next token is chosen: the settings. `yinggem.inference.filters` has what they switch on.

The option of `yinggem generate`, the check of its value and the record beside a text follow from the field. numpy is
not imported: the settings are read without it.
"""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, fields
from functools import partial
from typing import Any

from yinggem.common.checks import check_number, check_whole_number

MAX_NEW_TOKENS = 500  # the default length of a text


def setting(default: Any, explanation: str, check: Callable[..., None], off: tuple[Any, ...] = ()) -> Any:
    """A field of `Sampling`.

    Args:
        explanation: for --help.
        check: `check_number` or `check_whole_number` with the bounds.
        off: of one with a filter of its name, the values that switch it off.
    """
    whole = getattr(check, "func", None) is check_whole_number
    return field(default=default, metadata={"help": explanation, "check": check, "whole": whole, "off": off})


share = partial(check_number, low=0, high=1, optional=True)
count = partial(check_whole_number, low=0)


@dataclass(frozen=True)
class Sampling:
    """The settings of sampling. The filters apply in the order of their fields, after penalties and temperature.

    Attributes:
        temperature: logits are divided by it; 0 takes the likeliest token.
        top_k: only the k likeliest tokens; None or 0 is off.
        top_p: only the likeliest tokens that together reach this probability; None or 1 is off.
        min_p: only tokens at least this fraction as likely as the likeliest; None or 0 is off.
        typical_p: only the tokens whose surprise is nearest the expected one, to this probability; None or 1 is off.
        repetition_penalty: logits of ids seen before are divided by it where positive and multiplied where negative;
            1 is off.
        repetition_window: how many of the last ids count as seen, the prompt's included; None is all, 0 is off.
        no_repeat_ngram_size: no n-gram of this many ids occurs twice; 0 is off.

    Raises:
        UserError: a value is out of range; the sentence names it and the remedy.
    """

    temperature: float = setting(
        0.9,
        "0 takes the likeliest token",
        partial(check_number, low=0, high=1e6, remedy="use 0 for the likeliest token"),
    )
    top_k: int | None = setting(
        None,
        "draw from the N likeliest tokens; 0 is off",
        partial(count, optional=True, remedy="use 0 for every token"),
        off=(None, 0),
    )
    top_p: float | None = setting(
        0.85,
        "... from those that reach probability X; 1 is off",
        partial(share, excluded="low", remedy="use 1 for every token"),
        off=(None, 1),
    )
    min_p: float | None = setting(
        None,
        "... from those at least X times as likely as the likeliest; 0 is off",
        partial(share, remedy="use 0 for every token"),
        off=(None, 0),
    )
    typical_p: float | None = setting(
        None,
        "... from the most typical ones that reach probability X; 1 is off",
        partial(share, excluded="low", remedy="use 1 for every token"),
        off=(None, 1),
    )
    # Beyond this range the logits themselves overflow, and no text is better for it.
    repetition_penalty: float = setting(
        1.2,
        "1 is off, as it is by default with the char and byte tokenizers",
        partial(check_number, low=0.01, high=100, remedy="use 1 for none"),
    )
    repetition_window: int | None = setting(
        None,
        "penalise ids among the last N; 0 is off (default: all)",
        partial(count, optional=True, remedy="use 0 for no penalty"),
    )
    no_repeat_ngram_size: int = setting(
        0, "no N tokens in a row occur twice; 0 is off", partial(count, remedy="use 0 for no limit")
    )

    def __post_init__(self) -> None:
        for one in fields(self):
            one.metadata["check"](one.name, getattr(self, one.name))

    def filters(self) -> Iterator[tuple[str, Any]]:
        """The names of the filters that are on, in their order, each with its value."""
        for one in fields(self):
            off, value = one.metadata["off"], getattr(self, one.name)
            if off and value not in off:
                yield one.name, value

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for a record beside the text."""
        return asdict(self)


def sampling_for(tokenizer_name: str, **settings: Any) -> Sampling:
    """`Sampling` with the repetition penalty that suits a tokenizer, where none is set or it is None."""
    if settings.get("repetition_penalty") is None:
        settings["repetition_penalty"] = default_repetition_penalty(tokenizer_name)
    return Sampling(**settings)


def default_repetition_penalty(tokenizer_name: str) -> float:
    """1.2, but none where the ids are letters: a penalty would forbid them."""
    return 1.0 if tokenizer_name in ("char", "byte") else Sampling.repetition_penalty
