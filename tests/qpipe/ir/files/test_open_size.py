"""Sizes that are open: what is said of them holds for each number that they can be."""

import operator
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qpipe.ir.files.open_size import Open, Size, UnknownError, add, divide, equal, largest, multiply, smallest, subtract

NUMBERS = st.integers(-6, 6) | st.builds(Open, st.just("N"), st.integers(1, 4), st.integers(-3, 8))


def at(size: Size, number: int) -> int | float | bool:
    return size.factor * number + size.offset if isinstance(size, Open) else size


def towards_zero(a: int, b: int) -> int:
    return int(a / b)


@pytest.mark.parametrize(
    ("compute", "meant"),
    [
        (add, operator.add),
        (subtract, operator.sub),
        (multiply, operator.mul),
        (divide, towards_zero),
        (equal, operator.eq),
        (largest, max),
        (smallest, min),
    ],
)
@given(a=NUMBERS, b=NUMBERS)
def test_holds_at_each_number(compute: Callable[..., Size], meant: Callable[..., Any], a: Size, b: Size) -> None:
    try:
        result = compute(a, b)
    except UnknownError:
        return
    for number in range(1, 6):
        if compute is not divide or at(b, number) != 0 != at(a, number):
            assert at(result, number) == meant(at(a, number), at(b, number))


@pytest.mark.parametrize(
    ("compute", "a", "b", "expected"),
    [
        (add, Open("N"), Open("N", 2, 1), Open("N", 3, 1)),
        (subtract, Open("N"), Open("N"), 0),
        (multiply, 3, Open("N", 1, 1), Open("N", 3, 3)),
        (multiply, Open("N"), 2.0, Open("N", 2)),
        (divide, Open("N", 4, 2), 2, Open("N", 2, 1)),
        (divide, Open("N"), Open("N"), 1),
        (divide, Open("N", 6), Open("N", 2), 3),
        (subtract, Open("N", 3, 1), Open("N", 2), Open("N", 1, 1)),
        (subtract, Open("N", 2, 5), Open("N", 2, 1), 4),
        (divide, -7, 2, -3),
        (equal, Open("N"), -1, False),
        (largest, Open("N"), 1, Open("N")),
        (largest, Open("N"), Open("N", 2), Open("N", 2)),
        (smallest, 4, Open("N", 1, 3), 4),
    ],
)
def test_is_known(compute: Callable[..., Size], a: Size, b: Size, expected: Size) -> None:
    assert compute(a, b) == expected


@pytest.mark.parametrize(
    ("compute", "a", "b"),
    [
        (add, Open("N"), Open("M")),
        (add, Open("N"), 0.5),
        (largest, Open("N"), 2),
        (smallest, Open("N"), Open("M")),
        (multiply, Open("N"), Open("N")),
        (multiply, Open("N"), 0),
        (divide, Open("N"), 2),
        (divide, Open("N", 5), Open("N", 2)),
        (divide, Open("N", 4, 2), Open("N", 2)),
        (subtract, Open("N"), Open("N", 2)),
        (divide, 1, Open("N")),
        (divide, 1, 0),
        (equal, Open("N"), 3),
        (equal, Open("N"), Open("M")),
    ],
)
def test_is_not_known(compute: Callable[..., Size], a: Size, b: Size) -> None:
    with pytest.raises(UnknownError):
        compute(a, b)


@given(st.builds(Open, st.sampled_from(["N", "s0", "batch", "x.1"]), st.integers(1, 9), st.integers(-9, 9)))
def test_what_is_written_is_read(size: Open) -> None:
    assert Open.read(size.text) == size


@pytest.mark.parametrize("text", ["x[0]", "N*4", "(N//2)", "N + M", "0*N", "2*N*3", ""])
def test_what_is_no_such_expression_is_a_name(text: str) -> None:
    assert Open.read(text) == Open(text)
