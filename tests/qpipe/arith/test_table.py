"""Tables of codes: what they reach, what they are refused for."""

import numpy as np
import pytest

from qpipe.arith.spec import QuantSpec
from qpipe.arith.table import CodeTable, row_sizes, table_index

BEFORE = QuantSpec.unsigned(2, -1)


def table(*codes: int, after: QuantSpec | None = None) -> CodeTable:
    return CodeTable(BEFORE, after or QuantSpec.signed(8, -6), (*codes, *[codes[-1]] * (256 - len(codes))))


def test_reach_counts_zero_in() -> None:
    found = table(138, 148, 148, 255)
    assert found.reach == QuantSpec(-6, 0, 127, 128)
    assert found.bits == 2
    assert table(7, 9, after=QuantSpec.unsigned(8, 0)).reach == QuantSpec(0, 0, 9)


def test_what_is_not_reached_does_not_count() -> None:
    assert table(100, 110, 120, 130, 0).reach == QuantSpec(-6, -28, 2, 128)


def test_levels_are_exact() -> None:
    np.testing.assert_array_equal(table(1, 128, 129, 255).levels()[:4], np.float32([-127, 0, 1, 127]) / 64)


def test_index_rounds_half_to_even_and_clips() -> None:
    x = np.float32([-1, 0.2, 0.25, 0.75, 1.5, 9, np.inf, -np.inf])
    np.testing.assert_array_equal(table_index(x, BEFORE), [0, 0, 0, 2, 3, 3, 3, 0])


@pytest.mark.parametrize(
    ("entries", "message"),
    [((1, 2), "2 entries, expected 256"), ((0,) * 256, "entry 0 of a table, expected codes from 121 to 135")],
)
def test_refusals(entries: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CodeTable(BEFORE, QuantSpec.signed(4, 0), entries)


def test_beyond_a_range_it_saturates() -> None:
    found = table(138, 148, 150, 255, after=QuantSpec.unsigned(8, 0))
    assert found.saturating().tolist() == [138, 148, 150, *[255] * 253]
    assert found.saturating(QuantSpec(-1, 1, 2)).tolist() == [148, 148, *[150] * 254]


@pytest.mark.parametrize(
    ("shape", "sizes"),
    [
        ((), None),
        ((4,), [-1]),
        ((1, 3, 8), [-1, 3, 8]),  # of another batch, too
        (("N", 3, 8), [-1, 3, 8]),
        ((2, None, 8), [2, -1, 8]),
        (("N", "T", 8), None),
        ((2, "T", "C"), None),
    ],
)
def test_sizes_behind_one_row(shape: tuple[int | str | None, ...], sizes: list[int] | None) -> None:
    assert row_sizes(shape) == sizes
