"""What an operation costs: price lists, as files in `price_lists/` or of the user's own.

    title = "45 nm, 0.9 V"
    source = "where the prices are from"
    unit = "pJ"
    covers = ["training", "inference"]     # what is to be priced; by default both

    [multiply]
    float32 = 3.7
    int8 = 0.2
    element8 = "4/7"                       # of two low-bit elements of at most 8 bits, signs included; or left out

    [add]
    float32 = 0.9
    int16 = 0.05

    [compare]                              # these two may be left out: a comparison is a subtraction of integers,
    [shift]                                # and a shift costs what an addition of that width does, as in equation 9

An integer of a width that has no price is priced by the next wider one, or else by the widest: a product by the bits of
both factors, whose array of adders it is, all else in proportion to the width. (Horowitz's own go from 8 to 32 bits by
15.5 for a product, where this rule says 16, and by 3.3 for an addition, where it says 4.) Products of elements that no
`element` prices are integer products of their mantissas, an addition of the exponents and a shift (section 4.2 of the
MLS paper). A float has no price but its own.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, Strict
from pydantic_core import PydanticCustomError

from qpipe.arith.mls.formats import ElementFormat
from qpipe.errors import RecipeError
from qpipe.ir.cost.operations import Float, Integer, Kind, Operation, Operations, operation

FOLDER: Final = Path(__file__).parent / "price_lists"
"""Of those that are built in, NAME.toml each; `qpipe.settings.energy` has their names."""
Use = Literal["training", "inference"]
_FORMAT: Final = re.compile(r"(int|float|element)([1-9]\d?)")


def _as_format(key: str) -> str:
    if _FORMAT.fullmatch(key) is None:
        raise PydanticCustomError("format", "Input should be a format such as int8, float32 or element8")
    return key


def _as_number(value: Any) -> Any:
    """A fraction is a text."""
    if not isinstance(value, str):
        return value
    try:
        return float(Fraction(value))
    except (ValueError, ZeroDivisionError, OverflowError):
        raise PydanticCustomError("price", "Input should be a number, or a fraction such as '4/7'") from None


_Prices = dict[
    Annotated[str, AfterValidator(_as_format)],
    Annotated[float, BeforeValidator(_as_number), Field(gt=0, le=1e12, allow_inf_nan=False)],
]


class PriceList(BaseModel):
    """Prices by kind and format, in a unit; see the module."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    title: str = ""
    source: str = ""
    unit: str
    covers: Annotated[tuple[Use, ...], Strict(False), Field(min_length=1)] = ("training", "inference")
    multiply: _Prices
    add: _Prices
    compare: _Prices = Field(default_factory=dict)
    shift: _Prices = Field(default_factory=dict)

    def price(self, one: Operation) -> float:
        """In the list's unit; RecipeError where it has none."""
        left, right = one.left, one.right
        if isinstance(left, ElementFormat) and isinstance(right, ElementFormat):
            return self._element_price(one, left, right)
        prices: dict[str, float] = getattr(self, one.kind)
        if one.kind in {"compare", "shift"} and not prices:
            return self.price(operation("add", Integer(left.bits)))
        if isinstance(left, Float):
            if str(left) not in prices:
                raise _missing(one, f"{left} under [{one.kind}]")
            return prices[str(left)]
        if not (widths := self._widths(one.kind, "int")):
            raise _missing(one, f"int{left.bits} under [{one.kind}], or another width")
        width = _at_least(left.bits, widths) or widths[-1]
        scale = left.bits * right.bits / width**2 if one.kind == "multiply" else left.bits / width
        return prices[f"int{width}"] * scale

    def total(self, operations: Operations) -> float:
        """Of all of them; RecipeError that names the first without a price."""
        return math.fsum(operations[one] * self.price(one) for one in sorted(operations, key=str))

    def _element_price(self, one: Operation, left: ElementFormat, right: ElementFormat) -> float:
        if widths := self._widths("multiply", "element"):
            if (width := _at_least(left.bits, widths)) is None:
                raise _missing(one, f"element{left.bits} under [multiply]")
            return self.multiply[f"element{width}"]
        if not self._widths("multiply", "int"):
            raise _missing(one, f"element{left.bits} under [multiply], or int8")
        return math.fsum(map(self.price, parts_of_product(left, right)))

    def _widths(self, kind: Kind, of: str) -> list[int]:
        """The widths that are priced, in order."""
        matches = map(_FORMAT.fullmatch, getattr(self, kind))
        return sorted(int(match[2]) for match in matches if match is not None and match[1] == of)


def _missing(one: Operation, expected: str) -> RecipeError:
    return RecipeError(f"no price for '{one}', expected {expected}")


def _at_least(bits: int, widths: Sequence[int]) -> int | None:
    """The smallest of these widths that holds so many bits."""
    return next((width for width in widths if width >= bits), None)


def parts_of_product(left: ElementFormat, right: ElementFormat) -> list[Operation]:
    """A product of two elements on integers: of magnitudes, signs apart (a gate); and what moves it to its place.

    Source: the MLS paper, section 4.2: mantissas of M + 1 bits, shifts over a range that two exponents of 1 bit don't
    have.
    """
    parts = [operation("multiply", Integer(_magnitude(left)), Integer(_magnitude(right)))]
    if not (left.fixed_point and right.fixed_point):
        exponents = Integer(max(left.exponent, right.exponent) + 1)
        largest = left.largest_integer * right.largest_integer
        parts += [operation("add", exponents), operation("shift", Integer(largest.bit_length()))]
    return parts


def _magnitude(element: ElementFormat) -> int:
    """Bits of a mantissa with the bit that stands before the point."""
    return element.mantissa + (element.exponent > 0)
