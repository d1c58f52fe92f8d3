"""Functions of a few straight lines: Clip to any bounds, PRelu of one slope, ThresholdedRelu, Abs, Neg."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import onnx_ir as ir

from qpipe.arith.namespace import A, namespace
from qpipe.ops.base import Refusal
from qpipe.ops.curve import LateCurve
from qpipe.ops.refused import OR_LEAVE
from qpipe.ops.work import NodeWork, Work


class Bounds(LateCurve):
    """`min(max(x, low), high)`: a Clip whose bounds are not those of a Relu or a ReLU6, such as a HardTanh's."""

    op_types = ("Clip",)
    cost = NodeWork(Work(compare=2), backward=Work(compare=2))
    arguments = ("low", "high")

    def refusal(self, node: ir.Node) -> Refusal | None:
        """Bounds that leave no number between them."""
        found = dict(self.numbers(node))
        low, high = found.get("low", -math.inf), found.get("high", math.inf)
        if low < high:
            return None
        return Refusal(f"its bounds are ({low:g}, {high:g}), expected the first below the second: mend it, {OR_LEAVE}")

    def is_of_lines(self, numbers: Mapping[str, float]) -> bool:
        """A bound of 0, and no other."""
        return {abs(number) for number in numbers.values()} <= {0.0, math.inf}

    def formula(self, x: A, low: float = -math.inf, high: float = math.inf) -> A:
        """The clip."""
        return namespace(x).clip(x, low, high)

    def flat_beyond(self, numbers: Mapping[str, float]) -> float:
        """The farther bound."""
        low, high = numbers.get("low", -math.inf), numbers.get("high", math.inf)
        return max(abs(low), abs(high))


class OneSlope(LateCurve):
    """`x`, or `slope x` where x is negative: a PRelu of one number."""

    op_types = ("PRelu",)
    homogeneous = True
    cost = NodeWork(Work(multiply=1, compare=1), backward=Work(multiply=1, compare=1))
    arguments = ("slope",)

    def formula(self, x: A, slope: float = 0.0) -> A:
        """One of two lines."""
        return namespace(x).where(x < 0, slope * x, x)

    def sign(self, inputs: Sequence[bool | None]) -> bool | None:
        """Only what is negative can hang on the slope."""
        return None if any(inputs) else super().sign(inputs)


class ThresholdedRelu(LateCurve):
    """`x` above alpha, else 0."""

    op_types = ("ThresholdedRelu",)
    cost = NodeWork(Work(compare=1), backward=Work(compare=1))
    defaults = (("alpha", 1.0),)

    def formula(self, x: A, alpha: float = 1.0) -> A:
        """One of two lines."""
        return namespace(x).where(x > alpha, x, 0.0 * x)


class Abs(LateCurve):
    """`|x|`."""

    op_types = ("Abs",)
    homogeneous = True
    cost = NodeWork(Work(compare=1), backward=Work(multiply=1))

    def formula(self, x: A) -> A:
        """The magnitude."""
        return abs(x)

    def sign(self, inputs: Sequence[bool | None]) -> bool | None:
        """It is not negative."""
        return False


class Neg(LateCurve):
    """`-x`."""

    op_types = ("Neg",)
    homogeneous = True
    cost = NodeWork(Work(add=1), backward=Work(add=1))

    def formula(self, x: A) -> A:
        """The other sign."""
        return -x

    def sign(self, inputs: Sequence[bool | None]) -> bool | None:
        """Negative wherever its input is not."""
        return True
