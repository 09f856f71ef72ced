"""How the next token is chosen: the settings, and the filter that each of them switches on.

Another filter is a function and a field of `Sampling` that names it. The option of `yinggem generate`, the check of its
value and the record beside a text follow from the field. torch is not imported: the settings are read without it.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, fields
from functools import partial
from typing import TYPE_CHECKING, Any

from yinggem.common.checks import check_number, check_whole_number

if TYPE_CHECKING:
    from torch import Tensor

# From logits (B, V), float32, to logits in which -inf marks what may not be drawn; one token of every row is kept.
Filter = Callable[["Tensor", Any], "Tensor"]

MAX_NEW_TOKENS = 500  # the default length of a text


def keep_top_k(logits: "Tensor", k: int) -> "Tensor":
    """The k likeliest tokens, and those as likely as the k-th."""
    least = logits.topk(min(k, logits.size(-1))).values[:, -1:]
    return logits.masked_fill(logits < least, -math.inf)


def keep_top_p(logits: "Tensor", p: float) -> "Tensor":
    """The smallest set of likeliest tokens whose probability reaches p: those with less than p before them.

    A full sort of GPT-2's vocabulary costs more than the model's share of a token, so a few likeliest are sorted
    first, and more only when they do not reach p.
    """
    probabilities, size, count = logits.softmax(-1), logits.size(-1), 256
    while True:
        likeliest, ids = probabilities.topk(min(count, size))
        before = likeliest.cumsum(-1) - likeliest
        if count >= size or bool((before[:, -1] >= p).all()):
            break
        count *= 16
    kept = logits.gather(1, ids).masked_fill(before >= p, -math.inf)
    return logits.new_full(logits.shape, -math.inf).scatter_(1, ids, kept)


def keep_min_p(logits: "Tensor", p: float) -> "Tensor":
    """Tokens at least p times as likely as the likeliest."""
    probabilities = logits.softmax(-1)
    return logits.masked_fill(probabilities < p * probabilities.amax(-1, keepdim=True), -math.inf)


def keep_typical(logits: "Tensor", p: float) -> "Tensor":
    """Locally typical sampling (Meister et al. 2022): tokens whose surprise is nearest the entropy, up to mass p."""
    logs = logits.log_softmax(-1)
    entropy = -(logs * logs.exp()).nansum(-1, keepdim=True)
    distance, order = (-logs - entropy).abs().sort(-1)
    mass = logs.exp().gather(1, order).cumsum(-1)
    last = (mass < p).sum(-1, keepdim=True).clamp_(max=logits.size(-1) - 1)
    farthest = distance.gather(1, last)
    return logits.masked_fill((-logs - entropy).abs() > farthest, -math.inf)


def setting(
    default: Any, explanation: str, check: Callable[..., None], keep: Filter | None = None, off: tuple[Any, ...] = ()
) -> Any:
    """A field of `Sampling`.

    Args:
        explanation: for --help.
        check: `check_number` or `check_whole_number` with the bounds.
        keep: the filter, which is called with the logits and the value.
        off: the values that switch the filter off.
    """
    whole = getattr(check, "func", None) is check_whole_number
    return field(
        default=default, metadata={"help": explanation, "check": check, "whole": whole, "keep": keep, "off": off}
    )


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
        keep_top_k,
        off=(None, 0),
    )
    top_p: float | None = setting(
        0.85,
        "... from those that reach probability X; 1 is off",
        partial(share, excluded="low", remedy="use 1 for every token"),
        keep_top_p,
        off=(None, 1),
    )
    min_p: float | None = setting(
        None,
        "... from those at least X times as likely as the likeliest; 0 is off",
        partial(share, remedy="use 0 for every token"),
        keep_min_p,
        off=(None, 0),
    )
    typical_p: float | None = setting(
        None,
        "... from the most typical ones that reach probability X; 1 is off",
        partial(share, excluded="low", remedy="use 1 for every token"),
        keep_typical,
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

    def filters(self) -> Iterator[tuple[Filter, Any]]:
        """The filters that are on, in their order, each with its value."""
        for one in fields(self):
            keep, value = one.metadata["keep"], getattr(self, one.name)
            if keep is not None and value not in one.metadata["off"]:
                yield keep, value

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
