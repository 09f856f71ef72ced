"""The two checks that every setting with a number goes through, so that they read the same everywhere."""

import math
from typing import Any

from yinggem.common.errors import UserError


def check_whole_number(
    name: str, value: Any, low: int, high: int | None = None, optional: bool = False, remedy: str = ""
) -> None:
    """Refuse what is not a whole number from `low` to `high`, both included.

    Args:
        name: the setting as it is typed, such as data.batch_size.
        high: None for no upper bound.
        optional: whether None is a value too.
        remedy: what else can be done, for the end of the sentence.

    Raises:
        UserError: it is not one; true and false do not count as numbers.
    """
    if value is None and optional:
        return
    if isinstance(value, bool) or not isinstance(value, int) or value < low or (high is not None and value > high):
        bounds = f"from {low} on" if high is None else f"from {low} to {high}"
        raise _refusal(name, value, f"a whole number {bounds}", optional, remedy)


def check_number(
    name: str,
    value: Any,
    low: float = 0.0,
    high: float = math.inf,
    excluded: str = "",
    optional: bool = False,
    remedy: str = "",
) -> None:
    """Refuse what is not a finite number from `low` to `high`.

    Args:
        excluded: which bounds are not allowed themselves: "low", "high" or "low high".
        name, optional, remedy: as `check_whole_number`.

    Raises:
        UserError: it is not one; true and false do not count as numbers.
    """
    if value is None and optional:
        return
    above, below = "low" in excluded, "high" in excluded
    fits = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not fits or not low <= value <= high or (above and value == low) or (below and value == high):
        start = f"above {low:g}" if above else f"from {low:g}"
        end = (" on" if not above else "") if high == math.inf else f" to {'below ' if below else ''}{high:g}"
        raise _refusal(name, value, f"a number {start}{end}", optional, remedy)


def _refusal(name: str, value: Any, wanted: str, optional: bool, remedy: str) -> UserError:
    null, hint = ", or null" if optional else "", f"; {remedy}" if remedy else ""
    return UserError(f"{name} must be {wanted}{null}, not {str(value)[:80]!r}{hint}.")
