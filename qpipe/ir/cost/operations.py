"""Operations by kind and by the formats of their operands, and how many there are of each."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Final, Literal

from qpipe.arith.mls.formats import ElementFormat
from qpipe.ops.work import Work

Kind = Literal["multiply", "add", "compare", "shift"]


@dataclass(frozen=True)
class Float:
    """An IEEE 754 number."""

    bits: int

    def __str__(self) -> str:
        return f"float{self.bits}"


@dataclass(frozen=True)
class Integer:
    """One of so many bits, its sign included where it has one."""

    bits: int

    def __str__(self) -> str:
        return f"int{self.bits}"


Number = Float | Integer | ElementFormat
FLOAT32: Final = Float(32)
INT32: Final = Integer(32)


@dataclass(frozen=True)
class Operation:
    """An operation of one kind on operands of a format, or of two that differ."""

    kind: Kind
    left: Number
    right: Number

    def __str__(self) -> str:
        return f"{self.kind} {self.left}" if self.left == self.right else f"{self.kind} {self.left} × {self.right}"


def operation(kind: Kind, left: Number, right: Number | None = None) -> Operation:
    """One whose operands have one format where no second one is given; the wider is first."""
    right = left if right is None else right
    return Operation(kind, *sorted((left, right), key=lambda number: (number.bits, str(number)), reverse=True))


class Operations(Counter[Operation]):
    """How many of each."""

    def put(self, count: int, kind: Kind, left: Number, right: Number | None = None) -> None:
        """So many more of one."""
        if count:
            self[operation(kind, left, right)] += count

    def put_work(self, count: int, work: Work, number: Number) -> None:
        """So many more times what one element takes."""
        self.put(count * work.multiply, "multiply", number)
        self.put(count * work.add, "add", number)
        self.put(count * work.compare, "compare", number)

    def to_json(self) -> dict[str, int]:
        """By name, as in "multiply float32"."""
        return {str(one): count for one, count in self.items()}
