"""A constant that an op combines with an activation: 8 bits on a grid of its own, rounded once, and never trained.

In the QDQ file it stands as a weight does, behind a QuantizeLinear and a DequantizeLinear; in a final one its codes do.
Its zero point is where its range begins, so that constants of one sign have all of the 8 bits.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
import onnx_ir as ir

from qpipe.arith.namespace import AnyArray, IntArray
from qpipe.arith.quantize import quantize
from qpipe.arith.spec import STORAGE_MAX, QuantSpec
from qpipe.nodes import constant_array, constant_input, exponent_of
from qpipe.ops.quantizer_parts import dequantizes, stored

_FINEST: Final = -120
"""An exponent whose step, and its square, a float32 or an exponent of a product can have."""


@dataclass(frozen=True)
class ConstantOperand:
    """integers: of a grid, without its zero point, in the constant's own shape."""

    integers: IntArray
    grid: QuantSpec

    @property
    def codes(self) -> AnyArray:
        """uint8, as files store them."""
        return (self.integers + self.grid.zero_point).astype(np.uint8)


def constant_of(value: ir.Value | None) -> AnyArray | None:
    """The constant that an operand is, floats or codes; None of an activation."""
    return constant_array(stored(value))


def constant_grid(array: AnyArray, finest: int = _FINEST) -> QuantSpec:
    """The finest grid of 8 bits that holds the numbers and 0, no finer than `2**finest`."""
    low, high = min(float(array.min(initial=0)), 0.0), max(float(array.max(initial=0)), 0.0)
    if low == high:
        return QuantSpec.unsigned(8, finest if finest != _FINEST else 0)
    # One below the exponent at which the span would be 256 steps; where its ends round outwards, the next.
    exponent = max(math.frexp(high - low)[1] - 9, finest)
    while _steps(high, exponent) - _steps(low, exponent) > STORAGE_MAX:
        exponent += 1
    qmin, qmax = _steps(low, exponent), _steps(high, exponent)
    return QuantSpec(exponent, qmin, qmax, -qmin)


def read_constant(value: ir.Value) -> ConstantOperand:
    """The integers of a quantized graph's constant; ModelError where its scale is no power of two."""
    node = value.producer()
    array = constant_of(value)
    assert node is not None
    assert array is not None
    scale, zero_point = constant_input(node, 1), constant_input(node, 2)
    assert scale is not None
    assert zero_point is not None
    zero = int(zero_point)
    grid = QuantSpec(exponent_of(node, float(scale)), -zero, STORAGE_MAX - zero, zero)
    codes = array.dtype == np.uint8
    integers = array.astype(np.int64) - zero if codes else quantize(array.astype(np.float64), grid).astype(np.int64)
    low, high = int(integers.min(initial=0)), int(integers.max(initial=0))
    return ConstantOperand(integers, QuantSpec(grid.exponent, low, high, zero))


def real_constant(value: ir.Value) -> AnyArray:
    """What it stands for, float64: on its grid where it has one."""
    array = constant_of(value)
    assert array is not None
    if not dequantizes(value.producer()):
        return array.astype(np.float64)
    constant = read_constant(value)
    return np.asarray(constant.integers * constant.grid.scale)


def _steps(number: float, exponent: int) -> int:
    return round(math.ldexp(number, -exponent))
