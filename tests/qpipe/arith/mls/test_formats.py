"""MLS formats as data: what they can be, and what they hold."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise

import pytest

from qpipe.arith.mls.formats import ElementFormat, GroupFormat, MlsFormat
from support.mls import ELEMENTS, numbers


@pytest.mark.parametrize("text", ["2,1", " 2 , 1 ", "⟨2, 1⟩", "<2,1>", "(2,1)"])
def test_a_format_is_read(text: str) -> None:
    assert ElementFormat.parse(text) == ElementFormat(2, 1)


def test_a_format_reads_what_it_writes() -> None:
    assert str(ElementFormat(2, 1)) == "⟨2, 1⟩"
    assert all(ElementFormat.parse(str(element)) == element for element in ELEMENTS)


@pytest.mark.parametrize("text", ["", "2", "2,1,0", "-2,1", "2.0,1", "e2m1", "2,9999", "٢,1"])
def test_what_names_no_format_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected bits of exponent and mantissa such as 2,1"):
        ElementFormat.parse(text)


@pytest.mark.parametrize(
    ("element", "expected"),
    [
        ((6, 1), "expected 0 to 5 bits of exponent and 0 to 8 of mantissa"),
        ((2, 9), "expected 0 to 5 bits of exponent and 0 to 8 of mantissa"),
        ((-1, 4), "expected 0 to 5"),
        ((0, 0), "expected at least one bit beside the sign"),
    ],
)
def test_an_element_that_the_arithmetic_has_not_is_refused(element: tuple[int, int], expected: str) -> None:
    with pytest.raises(ValueError, match=f"element ⟨{element[0]}, {element[1]}⟩, {expected}"):
        ElementFormat(*element)


@pytest.mark.parametrize(
    ("group", "expected"), [((0, 1), "1 to 8 bits"), ((9, 0), "1 to 8 bits"), ((8, 2), "a mantissa of 0 or 1 bits")]
)
def test_a_group_that_the_arithmetic_has_not_is_refused(group: tuple[int, int], expected: str) -> None:
    with pytest.raises(ValueError, match=f"group ⟨{group[0]}, {group[1]}⟩, expected {expected}"):
        GroupFormat(*group)


def test_other_words_are_refused() -> None:
    with pytest.raises(ValueError, match="grouping 'cn', expected one of none, n, c, nc"):
        MlsFormat(ElementFormat(2, 1), "cn")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="overflow 'wrap', expected one of carry, clip"):
        MlsFormat(ElementFormat(2, 1), overflow="wrap")  # type: ignore[arg-type]


def test_a_grouping_needs_its_axes() -> None:
    for grouping, least in (("none", 0), ("n", 1), ("c", 2), ("nc", 2)):
        fmt = MlsFormat(ElementFormat(2, 1), grouping)  # type: ignore[arg-type]
        fmt.check_axes((4,) * least)
        if least:
            with pytest.raises(ValueError, match=f"grouping '{grouping}' of a tensor of shape"):
                fmt.check_axes((4,) * (least - 1))


def test_the_numbers_of_two_formats_by_hand() -> None:
    sixteenths = [Fraction(n, 16) for n in (0, 1, 2, 3, 4, 6, 8, 12)]
    assert [number.value for number in numbers(ElementFormat(2, 1))] == sixteenths
    assert [number.value for number in numbers(ElementFormat(0, 2))] == [Fraction(n, 4) for n in range(4)]


@pytest.mark.parametrize("element", ELEMENTS, ids=str)
def test_what_a_format_says_of_its_numbers(element: ElementFormat) -> None:
    values = [number.value for number in numbers(element)]
    assert len(values) == 2 ** (element.bits - 1)
    assert values[-1] == Fraction(element.largest)
    assert min(values[1:]) == Fraction(2) ** (element.unit if element.mantissa else element.smallest_exponent)
    assert all(value / Fraction(2) ** element.unit % 1 == 0 for value in values)
    assert element.fixed_point == (len({high - low for low, high in pairwise(values)}) == 1)


@pytest.mark.parametrize("mantissa", range(8))
def test_one_bit_of_exponent_is_one_of_mantissa(mantissa: int) -> None:
    one, none = (numbers(ElementFormat(e, mantissa + 1 - e)) for e in (1, 0))
    assert [number.value for number in one] == [number.value for number in none]
