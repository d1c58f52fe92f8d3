import tomllib
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from qpipe.arith.mls.formats import ElementFormat
from qpipe.errors import RecipeError
from qpipe.ir.cost.operations import FLOAT32, INT32, Float, Integer, Kind, Number, Operations, operation
from qpipe.ir.cost.prices import FOLDER, PriceList, parts_of_product
from qpipe.settings.energy import PRICE_LISTS

ROUNDING = 1e-12
"""A price is a product of a few floats."""


def built_in(name: str) -> PriceList:
    return PriceList.model_validate(tomllib.loads((FOLDER / f"{name}.toml").read_text()))


def price_list(**tables: Any) -> PriceList:
    return PriceList.model_validate({"unit": "pJ", "multiply": {}, "add": {}, **tables})


HOROWITZ = built_in("horowitz")


def price(prices: PriceList, kind: Kind, left: Number, right: Number | None = None) -> float:
    return prices.price(operation(kind, left, right))


def test_the_names_are_those_of_the_files() -> None:
    assert sorted(PRICE_LISTS) == sorted(file.stem for file in FOLDER.iterdir())


@pytest.mark.parametrize(
    ("kind", "number", "expected"),
    [
        # Table 4 of the MLS paper.
        ("multiply", Integer(8), 0.2),
        ("add", Integer(8), 0.03),
        ("multiply", Float(16), 1.1),
        ("add", Float(16), 0.4),
        ("multiply", FLOAT32, 3.7),
        ("add", FLOAT32, 0.9),
    ],
)
def test_horowitz(kind: Kind, number: Number, expected: float) -> None:
    assert price(HOROWITZ, kind, number) == expected


def test_equation_9_has_the_factors_of_the_paper() -> None:
    prices = built_in("equation-9")
    assert price(prices, "multiply", FLOAT32) == 4
    assert price(prices, "add", FLOAT32) == 1
    assert price(prices, "add", Integer(16)) == 1 / 20
    assert price(prices, "multiply", ElementFormat(2, 4)) == price(prices, "multiply", ElementFormat(4, 3)) == 4 / 7


def test_table_5() -> None:
    prices = built_in("table-5")
    assert (price(prices, "multiply", FLOAT32), price(prices, "add", FLOAT32)) == (0.532, 0.140)
    assert (price(prices, "multiply", ElementFormat(2, 4)), price(prices, "add", Integer(16))) == (0.0192, 0.0094)
    assert price(prices, "multiply", ElementFormat(5, 2)) == 0.023


@pytest.mark.parametrize(
    ("kind", "left", "right", "expected"),
    [
        ("multiply", Integer(4), None, 0.2 / 4),
        ("multiply", Integer(8), Integer(4), 0.2 / 2),
        ("multiply", Integer(32), Integer(8), 3.1 / 4),
        ("multiply", Integer(9), None, 3.1 * 81 / 1024),
        ("multiply", Integer(64), None, 3.1 * 4),
        ("add", Integer(24), None, 0.1 * 3 / 4),
        ("add", Integer(48), None, 0.1 * 3 / 2),
        ("shift", Integer(16), None, 0.05),
        ("compare", FLOAT32, None, 0.1),
        ("compare", Integer(8), None, 0.03),
    ],
)
def test_a_width_without_price_has_the_next_ones(
    kind: Kind, left: Number, right: Number | None, expected: float
) -> None:
    assert price(HOROWITZ, kind, left, right) == pytest.approx(expected, rel=ROUNDING)


def test_comparisons_and_shifts_may_have_prices_of_their_own() -> None:
    prices = price_list(add={"int32": 1.0}, compare={"float32": 5.0, "int8": 2.0}, shift={"int8": 3.0})
    assert price(prices, "compare", FLOAT32) == 5
    assert price(prices, "compare", Integer(4)) == 1
    assert price(prices, "shift", Integer(16)) == 6


def test_an_element_is_priced_by_its_parts_where_nothing_else_is_said() -> None:
    # 5-bit mantissas, exponents of 2 bits whose sum has 3, and a product of 14 bits (section 5.1) to be shifted.
    element = ElementFormat(2, 4)
    assert list(map(str, parts_of_product(element, element))) == ["multiply int5", "add int3", "shift int14"]
    expected = 0.2 * 25 / 64 + 0.03 * 3 / 8 + 0.05 * 14 / 16
    assert price(HOROWITZ, "multiply", element) == pytest.approx(expected, rel=ROUNDING)
    # Fixed point has nothing to shift, and ⟨1, M⟩ is fixed point.
    for fixed in (ElementFormat(0, 4), ElementFormat(1, 3)):
        assert list(map(str, parts_of_product(fixed, fixed))) == ["multiply int4"]


def test_the_narrowest_element_that_is_priced_and_wide_enough() -> None:
    prices = price_list(multiply={"element8": 8.0, "element5": 5.0, "int8": 1.0})
    assert price(prices, "multiply", ElementFormat(2, 1)) == 5
    assert price(prices, "multiply", ElementFormat(2, 1), ElementFormat(2, 4)) == 8
    with pytest.raises(RecipeError, match=r"^no price for 'multiply ⟨2, 6⟩', expected element9 under \[multiply\]$"):
        price(prices, "multiply", ElementFormat(2, 6))


def test_a_total() -> None:
    operations = Operations()
    operations.put(10, "multiply", FLOAT32)
    operations.put(20, "add", INT32)
    assert HOROWITZ.total(operations) == pytest.approx(10 * 3.7 + 20 * 0.1, rel=ROUNDING)
    assert HOROWITZ.total(Operations()) == 0


@pytest.mark.parametrize(
    ("tables", "one", "message"),
    [
        ({}, operation("multiply", FLOAT32), "'multiply float32', expected float32 under [multiply]"),
        ({"add": {"float16": 1.0}}, operation("add", FLOAT32), "'add float32', expected float32 under [add]"),
        (
            {"add": {"float32": 1.0}},
            operation("add", Integer(19)),
            "'add int19', expected int19 under [add], or",
        ),
        ({"add": {"float32": 1.0}}, operation("shift", Integer(9)), "'add int9', expected int9 under [add], or"),
        (
            {},
            operation("multiply", ElementFormat(2, 4)),
            "'multiply ⟨2, 4⟩', expected element7 under ",
        ),
    ],
)
def test_a_price_that_is_missing(tables: dict[str, Any], one: Any, message: str) -> None:
    with pytest.raises(RecipeError) as raised:
        price_list(**tables).price(one)
    assert str(raised.value).startswith(f"no price for {message}")


@pytest.mark.parametrize(
    "wrong",
    [
        {"int8": 0}, {"int8": -1.0}, {"int8": float("nan")}, {"int8": float("inf")}, {"int8": "1/0"}, {"int8": "x"},
        {"int8": True}, {"flt32": 1.0}, {"int0": 1.0}, {"int100": 1.0}, {"int8": None},
    ],
)  # fmt: skip
def test_what_is_no_price(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        price_list(multiply=wrong)


def test_what_is_no_price_list() -> None:
    for wrong in ({"covers": ["nothing"]}, {"covers": []}, {"unit": 3}, {"divide": {"int8": 1.0}}):
        with pytest.raises(ValidationError):
            price_list(**wrong)


def test_price_lists_are_in_the_distribution() -> None:
    pyproject = tomllib.loads((Path(__file__).parents[4] / "pyproject.toml").read_text())
    assert "ir/cost/price_lists/*" in pyproject["tool"]["setuptools"]["package-data"]["qpipe"]
