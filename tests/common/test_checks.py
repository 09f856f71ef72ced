"""One check for whole numbers and one for numbers: what they accept, and what their sentences say."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from yinggem.common.checks import check_number, check_whole_number
from yinggem.common.errors import UserError


@given(st.integers(-5, 5), st.integers(-5, 5), st.one_of(st.none(), st.integers(-5, 5)))
def test_whole_numbers_within_their_bounds_pass_and_others_do_not(value, low, high):
    if low <= value and (high is None or value <= high):
        check_whole_number("a.b", value, low, high)
    else:
        with pytest.raises(UserError, match=r"a\.b must be a whole number from"):
            check_whole_number("a.b", value, low, high)


@pytest.mark.parametrize("value", [True, False, 1.0, "1", [1], math.nan, math.inf])
def test_what_is_no_whole_number_is_named(value):
    with pytest.raises(UserError) as caught:
        check_whole_number("data.batch_size", value, 0)
    assert str(caught.value) == f"data.batch_size must be a whole number from 0 on, not {str(value)!r}."


@given(st.floats(), st.sampled_from(["", "low", "high", "low high"]))
def test_numbers_within_their_bounds_pass_and_others_do_not(value, excluded):
    inside = 0 <= value <= 1 and not (value == 0 and "low" in excluded) and not (value == 1 and "high" in excluded)
    if inside:
        check_number("x", value, 0, 1, excluded)
    else:
        with pytest.raises(UserError, match="x must be a number"):
            check_number("x", value, 0, 1, excluded)


def test_null_and_a_remedy_are_said_where_there_are():
    check_number("x", None, optional=True)
    with pytest.raises(UserError, match=r"x must be a number above 0, or null, not 'a'; leave it out\."):
        check_number("x", "a", 0, excluded="low", optional=True, remedy="leave it out")
    for value in (None, True, "3", math.inf):
        with pytest.raises(UserError):
            check_number("x", value)
