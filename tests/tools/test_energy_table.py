"""The paper's Table 1, counted on networks that are built for it."""

from typing import Any

import energy_table
import pytest
from energy_table import PAPER_STEM, RESNET20, TABLE_1, USUAL

PRINTED = 0.005
"""The paper prints three digits, some of them cut off instead of rounded: ResNet-20's 4.055e7 is 4.05e7 there."""


@pytest.fixture(scope="module")
def rows() -> dict[str, dict[str, Any]]:
    """By network, then by operation."""
    return {
        network: {str(row["operation"]): row for row in energy_table.table_1(network, energy_table.measure(network, 1))}
        for network in (PAPER_STEM, USUAL, RESNET20)
    }


@pytest.mark.parametrize(
    ("network", "column", "differs"),
    [
        (PAPER_STEM, 0, {"EW-Add, forward"}),
        # The blocks whose skip is padded, 1 of 3 in stages 2 and 3, are missing in the paper's.
        (RESNET20, 1, {"EW-Add, forward", "EW-Add, backward"}),
    ],
)
def test_all_but_additions_are_the_papers(
    network: str, column: int, differs: set[str], rows: dict[str, dict[str, Any]]
) -> None:
    for name, printed in TABLE_1.items():
        is_equal = rows[network][name]["counted as the paper does"] == pytest.approx(printed[column], rel=PRINTED)
        assert is_equal == (name not in differs), name


def test_the_additions_of_its_resnet18_stand_in_each_others_place(rows: dict[str, dict[str, Any]]) -> None:
    forward, backward = TABLE_1["EW-Add, forward"][0], TABLE_1["EW-Add, backward"][0]
    own = rows[PAPER_STEM]
    assert own["EW-Add, forward"]["operations of a step"] == pytest.approx(backward, rel=PRINTED)
    assert own["EW-Add, backward"]["operations of a step"] == pytest.approx(forward, rel=PRINTED)


def test_its_resnet20_lacks_the_padded_skips(rows: dict[str, dict[str, Any]]) -> None:
    padded = 32 * 16 * 16 + 64 * 8 * 8
    found = rows[RESNET20]["EW-Add, forward"]["operations of a step"]
    assert found - padded == pytest.approx(TABLE_1["EW-Add, forward"][1], rel=PRINTED)


def test_both_readings_of_resnet18(rows: dict[str, dict[str, Any]]) -> None:
    macs = {network: rows[network]["Conv, forward"]["operations of a step"] for network in (PAPER_STEM, USUAL)}
    assert macs == {PAPER_STEM: 27_215_462_400, USUAL: 1_813_561_344}
