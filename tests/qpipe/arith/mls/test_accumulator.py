"""How wide accumulators are: by hand, and beside the paper's figures."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from qpipe.arith.mls.accumulator import Convolution, accumulator, accumulators
from qpipe.arith.mls.formats import ElementFormat, GroupFormat, MlsFormat
from support.mls import ELEMENTS, numbers

SAME = Convolution((1, 1), ((1, 1), (1, 1)), (1, 1))
NC = {text: MlsFormat(ElementFormat.parse(text)) for text in ("2,4", "2,1", "1,2", "0,4", "0,2")}


def rows(fmt: MlsFormat, convolution: Convolution = SAME) -> dict[str, tuple[int, int, int]]:
    """Bits, terms and partial sums of the three products of a 3x3 layer, 16 to 32 channels, batch 128, 32x32."""
    ci = 16 // convolution.groups
    found = accumulators(convolution, (32, ci, 3, 3), (128, 16, 32, 32), formats=(fmt, fmt, fmt))
    return {row.product: (row.bits, row.terms, row.partial_sums) for row in found}


@pytest.mark.parametrize("element", ELEMENTS, ids=str)
def test_a_product_has_the_papers_width(element: ElementFormat) -> None:
    """`2M + 2**(E + 1) - 2`; one bit less where the fraction is always 1, as the largest product then is a power."""
    fmt = MlsFormat(element)
    row = accumulator("Conv(W, A)", Convolution(), (1, 1), (1, 1), (fmt, fmt))
    largest = numbers(element)[-1].value
    unit = min(number.value for number in numbers(element)[1:]) if element.mantissa else 2.0**element.unit
    assert row.largest_product == (largest / unit) ** 2
    papers = 2 * element.mantissa + 2 ** (element.exponent + 1) - 2
    assert row.largest_product.bit_length() == papers - (element.mantissa == 0 or element == ElementFormat(0, 1))


def test_nine_products_of_2_4_do_not_fit_16_bits() -> None:
    """31 * 4 is the largest element as an integer: 9 * 124**2 is 138,384, of 18 bits without sign."""
    assert rows(NC["2,4"])["Conv(W, A)"] == (19, 9, 16)
    assert accumulators(SAME, (32, 16, 3, 3), (1, 16, 8, 8), formats=(NC["2,4"],) * 3)[0].terms_that_fit == 2


def test_the_documentations_table() -> None:
    """Products that fit, then bits of Conv(W, A) and Conv(W, E), and of Conv(A, E) by its sizes."""
    text = (Path(__file__).parents[4] / "docs" / "low_bit_training.md").read_text()
    section = text.partition("### Accumulators")[2].partition("\n##")[0]
    header, *table = re.findall(r"^\| (?:⟨(\d), (\d)⟩)? ?\|(.*)\|$", section, re.MULTILINE)
    sizes = [int(size) for size in re.findall(r"(\d+)×\d+", header[2])[1:]]
    assert sizes == [8, 16, 32, 112]
    assert len(table) == len(NC)
    for exponent, mantissa, cells in table:
        fmt = NC[f"{exponent},{mantissa}"]
        found = [accumulators(SAME, (16, 16, 3, 3), (128, 16, size, size), formats=(fmt, fmt, fmt)) for size in sizes]
        forward, of_input, _ = found[0]
        assert forward.bits == of_input.bits
        expected = [forward.terms_that_fit, forward.bits, *(rows[2].bits for rows in found)]
        assert [int(cell) for cell in cells.split("|")] == expected


def test_the_three_products_by_grouping() -> None:
    """Positions share a scale; channels and samples do where neither operand has one for each."""
    fmt: Any = {name: MlsFormat(ElementFormat(0, 1), name) for name in ("none", "n", "c", "nc")}  # type: ignore[arg-type]
    terms = {name: [(row[1], row[2]) for row in rows(fmt[name]).values()] for name in fmt}
    assert terms == {
        "nc": [(9, 16), (9, 32), (1024, 128)],
        "n": [(9 * 16, 1), (9, 32), (1024, 128)],
        "c": [(9, 16), (9, 32), (1024 * 128, 1)],
        "none": [(9 * 16, 1), (9 * 32, 1), (1024 * 128, 1)],
    }
    mixed = accumulators(SAME, (32, 16, 3, 3), (128, 16, 32, 32), formats=(fmt["n"], fmt["n"], fmt["none"]))
    assert [(row.terms, row.partial_sums) for row in mixed] == [(144, 1), (9, 32), (1024, 128)]


@pytest.mark.parametrize(
    ("stride", "dilation", "taps"), [(1, 1, 9), (2, 1, 4), (3, 1, 1), (2, 2, 9), (2, 3, 4), (4, 2, 4), (5, 1, 1)]
)
def test_a_stride_passes_over_positions_of_the_kernel(stride: int, dilation: int, taps: int) -> None:
    moved = Convolution((stride, stride), ((1, 1), (1, 1)), (dilation, dilation))
    assert rows(NC["2,1"], moved)["Conv(W, E)"][1] == taps


def test_a_grouped_convolution_sums_over_channels_of_one_group() -> None:
    fmt = MlsFormat(ElementFormat(2, 1), "none")
    found = rows(fmt, Convolution((1, 1), ((1, 1), (1, 1)), (1, 1), groups=4))
    assert [row[1:] for row in found.values()] == [(9 * 4, 1), (9 * 8, 1), (1024 * 128, 1)]


def test_between_groups_a_fixed_point_sum_would_be_wide() -> None:
    """Of ⟨2, 1⟩ and ⟨3, 1⟩ scales: 11 bits without sign, 4 for 16 channels, and 2 * (7 + 1) for the scales."""
    fmt = MlsFormat(ElementFormat(2, 1), "nc", GroupFormat(3, 1))
    row = accumulator("Conv(W, A)", SAME, (32, 16, 3, 3), (1, 16, 8, 8), (fmt, fmt))
    assert row.bits == 12
    assert row.bits_between == 11 + 4 + 16 + 1
    assert accumulator("Conv(W, A)", SAME, (32, 16, 3, 3), (1, 16, 8, 8), (NC["2,1"],) * 2).bits_between == 528
    alone = MlsFormat(ElementFormat(2, 1), "none")
    assert accumulator("Conv(W, A)", SAME, (32, 16, 3, 3), (1, 16, 8, 8), (alone, alone)).bits_between == 16


def test_outputs() -> None:
    moved = Convolution((2, 1), ((1, 2), (0, 0)), (1, 2))
    assert moved.output((8, 9), (3, 3)) == ((8 + 3 - 3) // 2 + 1, 9 - 4)
    assert Convolution().output((), ()) == ()
