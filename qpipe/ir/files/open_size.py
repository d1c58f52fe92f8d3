"""Arithmetic of sizes that are open, such as the batch: `2 * N + 1` is followed through sums and products."""

from __future__ import annotations

import functools
import operator
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

_WRITTEN: Final = re.compile(
    r"(?:(?P<factor>[1-9]\d*)\*)?(?P<name>[A-Za-z_][\w.]*)(?: (?P<sign>[+-]) (?P<offset>\d+))?"
)
"""`N`, `4*N`, `N + 1`, `2*N - 3`, as PyTorch's exporter writes them too."""


@dataclass(frozen=True)
class Open:
    """`factor * N + offset`, with N the size of this name, which is 1 or more; factor is positive."""

    name: str
    factor: int = 1
    offset: int = 0

    @classmethod
    def read(cls, text: str) -> Open:
        """The size that a dimension's name says; what is no such expression is a name as it stands."""
        found = _WRITTEN.fullmatch(text)
        if found is None:
            return cls(text)
        offset = int(found["offset"] or 0)
        return cls(found["name"], int(found["factor"] or 1), -offset if found["sign"] == "-" else offset)

    @property
    def text(self) -> str:
        """What `read` reads."""
        factor = "" if self.factor == 1 else f"{self.factor}*"
        offset = f" {'-' if self.offset < 0 else '+'} {abs(self.offset)}" if self.offset else ""
        return f"{factor}{self.name}{offset}"


Size = int | float | bool | Open
Sizes = list[Any]
"""Of `Size`, nested where the list is of a higher rank."""


class UnknownError(Exception):
    """A number does not follow from what is known."""


def add(a: Any, b: Any) -> Size:
    """The sum; UnknownError of two sizes of different names."""
    if isinstance(b, Open):
        a, b = b, a
    if not isinstance(a, Open):
        return a + b  # type: ignore[no-any-return]
    if isinstance(b, Open):
        if a.name != b.name:
            raise UnknownError
        return Open(a.name, a.factor + b.factor, a.offset + b.offset)
    return Open(a.name, a.factor, a.offset + _whole(b))


def subtract(a: Any, b: Any) -> Size:
    """The difference; UnknownError where it would fall as the size grows."""
    if isinstance(b, Open):
        if not isinstance(a, Open) or a.name != b.name or a.factor < b.factor:
            raise UnknownError
        factor, offset = a.factor - b.factor, a.offset - b.offset
        return Open(a.name, factor, offset) if factor else offset
    return add(a, -b)


def multiply(a: Any, b: Any) -> Size:
    """The product; UnknownError of two open sizes, and of what is not whole and positive."""
    if isinstance(b, Open):
        a, b = b, a
    if not isinstance(a, Open):
        return a * b  # type: ignore[no-any-return]
    if isinstance(b, Open) or _whole(b) <= 0:
        raise UnknownError
    return Open(a.name, a.factor * _whole(b), a.offset * _whole(b))


def divide(a: Any, b: Any) -> Size:
    """The quotient, of integers towards zero; UnknownError where an open size is not divided without rest."""
    if a == b and a != 0:
        return 1
    if isinstance(a, Open) and isinstance(b, Open) and a.name == b.name and a.offset == b.offset == 0:
        a, b = a.factor, b.factor
        if a % b:
            raise UnknownError
    if isinstance(b, Open) or b == 0:
        raise UnknownError
    if isinstance(a, Open):
        if _whole(b) <= 0 or a.factor % _whole(b) or a.offset % _whole(b):
            raise UnknownError
        return Open(a.name, a.factor // _whole(b), a.offset // _whole(b))
    if isinstance(a, int) and isinstance(b, int):
        # Integers are divided towards zero.
        return abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)
    return a / b  # type: ignore[no-any-return]


def _whole(number: float) -> int:
    if number != int(number):
        raise UnknownError
    return int(number)


def equal(a: Any, b: Any) -> Size:
    """Whether they are equal; UnknownError where that depends on the size."""
    if a == b:
        return True
    opened = [number for number in (a, b) if isinstance(number, Open)]
    # An open size is at least its smallest.
    if len(opened) == 1 and min(x for x in (a, b) if not isinstance(x, Open)) < opened[0].factor + opened[0].offset:
        return False
    if opened:
        raise UnknownError
    return False


def largest(*numbers: Any) -> Size:
    """The largest; UnknownError where which one it is depends on the size."""
    return functools.reduce(lambda a, b: a if _is_as_large(a, b) else b, numbers)  # type: ignore[no-any-return]


def smallest(*numbers: Any) -> Size:
    """The smallest, likewise."""
    return functools.reduce(lambda a, b: b if _is_as_large(a, b) else a, numbers)  # type: ignore[no-any-return]


def product(numbers: Iterable[Any]) -> Size:
    """Of all of them."""
    one: Size = 1
    return functools.reduce(multiply, numbers, one)


def _is_as_large(a: Any, b: Any) -> bool:
    """Whether a is as large as b at every size, or b as large as a."""
    if not isinstance(a, Open) and not isinstance(b, Open):
        return bool(a >= b)
    if isinstance(a, Open) and isinstance(b, Open) and a.name != b.name:
        raise UnknownError
    # At the smallest size, and what is added with each.
    (least, slope), (other, others) = (
        (size.factor + size.offset, size.factor) if isinstance(size, Open) else (size, 0) for size in (a, b)
    )
    if least >= other and slope >= others:
        return True
    if least <= other and slope <= others:
        return False
    raise UnknownError


def known(compute: Callable[..., Any], *, keeps_open: bool = False) -> Callable[..., Size]:
    """Of numbers that are known; keeps_open: what rounding does to an open size, which is whole."""

    def of(*numbers: Any) -> Size:
        if any(isinstance(number, Open) for number in numbers):
            if keeps_open:
                return numbers[0]  # type: ignore[no-any-return]
            raise UnknownError
        return compute(*numbers)  # type: ignore[no-any-return]

    return of


ARITHMETIC: Final[Mapping[str, Callable[..., Size]]] = {
    "Add": add, "Sub": subtract, "Mul": multiply, "Div": divide, "Max": largest, "Min": smallest,
    # Of integers by ONNX, with the divisor's sign, and as Python has it.
    "Mod": known(operator.mod), "Floor": known(np.floor, keeps_open=True), "Ceil": known(np.ceil, keeps_open=True),
    "Round": known(np.round, keeps_open=True),
}  # fmt: skip
COMPARISONS: Final[Mapping[str, Callable[..., Size]]] = {
    "Equal": equal, "Greater": known(operator.gt), "Less": known(operator.lt), "Not": known(operator.not_),
}  # fmt: skip
"""By ONNX's names."""
