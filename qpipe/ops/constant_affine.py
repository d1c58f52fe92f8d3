"""Add, Sub, Mul, Div of a constant, and Neg, as one map `y = factor x + offset`, and where else it may stand.

The map commutes with what moves numbers only: behind a Reshape or a Transpose it has the same numbers in other places.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import onnx_ir as ir

from qpipe.arith.namespace import Float64Array
from qpipe.nodes import AnyArray, constant_array, ints_attribute, static_shape

OP_TYPES: Final = frozenset({"Add", "Sub", "Mul", "Div", "Neg"})
LARGEST_FLOAT32: Final = float(np.finfo(np.float32).max)
_RESHAPES: Final = frozenset({"Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity"})

Sizes = Sequence[int | None]


@dataclass(frozen=True)
class ConstantAffine:
    """`y = factor x + offset`; both arrays have as many axes as x, each as long as x's, or of one element."""

    x: ir.Value
    factor: Float64Array
    offset: Float64Array

    @property
    def is_factor(self) -> bool:
        """Whether nothing is added."""
        return not self.offset.any()

    @property
    def is_offset(self) -> bool:
        """Whether nothing is multiplied."""
        return bool((self.factor == 1).all())

    @property
    def fits_float32(self) -> bool:
        """Whether float32 has its numbers."""
        return all(np.abs(array).max(initial=0) <= LARGEST_FLOAT32 for array in (self.factor, self.offset))

    def then(self, later: ConstantAffine) -> ConstantAffine:
        """This map, and `later` behind it."""
        return ConstantAffine(self.x, self.factor * later.factor, self.offset * later.factor + later.offset)

    def before(self, carrier: ir.Node) -> ConstantAffine | None:
        """The map of the carrier's input that equals this one of its result; None where there is none."""
        return self._moved(carrier, carrier.inputs[0], backwards=True)

    def behind(self, carrier: ir.Node) -> ConstantAffine | None:
        """The map of the carrier's result that equals this one of its input; None where there is none."""
        return self._moved(carrier, carrier.outputs[0], backwards=False)

    def _moved(self, carrier: ir.Node, x: ir.Value | None, *, backwards: bool) -> ConstantAffine | None:
        factor, offset = (moved_array(carrier, array, backwards=backwards) for array in (self.factor, self.offset))
        if x is None or factor is None or offset is None:
            return None
        return ConstantAffine(x, factor, offset)

    def along(self, axis: int, size: int) -> tuple[Float64Array, Float64Array] | None:
        """Factor and offset for each place of the axis, `[size]`; None where they differ along another one."""
        dims = self.factor.ndim
        found = []
        for array in (self.factor, self.offset):
            if any(length > 1 for i, length in enumerate(array.shape) if i != axis % dims):
                return None
            if array.size not in {1, size}:
                return None
            found.append(np.broadcast_to(array.reshape(-1), (size,)))
        return found[0], found[1]


def constant_affine(node: ir.Node | None) -> ConstantAffine | None:
    """The map of a node with one constant operand, whose result has x's shape; None of any other node."""
    if node is None or node.op_type not in OP_TYPES or node.domain != "":
        return None
    data = [value for value in node.inputs if value is not None and constant_array(value) is None]
    sizes = static_shape(data[0]) if len(data) == 1 else None
    if sizes is None or data[0].dtype not in {ir.DataType.FLOAT, None}:
        return None
    one, zero = np.ones([1] * len(sizes)), np.zeros([1] * len(sizes))
    if node.op_type == "Neg":
        return ConstantAffine(data[0], -one, zero)
    is_first = node.inputs[0] is data[0]
    constant = constant_array(node.inputs[1 if is_first else 0])
    aligned = None if constant is None else _aligned(constant, sizes)
    if aligned is None:
        return None
    match node.op_type:
        case "Add":
            return ConstantAffine(data[0], one, aligned)
        case "Sub":
            return ConstantAffine(data[0], one if is_first else -one, -aligned if is_first else aligned)
        case "Mul":
            return ConstantAffine(data[0], aligned, zero)
        case _ if is_first and aligned.all():
            return ConstantAffine(data[0], 1 / aligned, zero)
    return None


def _aligned(constant: AnyArray, sizes: Sizes) -> Float64Array | None:
    """The constant with an axis for each of x's; None where it is no float, or its broadcast changes x's shape."""
    shape = (1,) * (len(sizes) - constant.ndim) + constant.shape
    fits = all(length == 1 or length == size for length, size in zip(shape, sizes, strict=False))
    if constant.dtype != np.float32 or len(shape) != len(sizes) or not fits or not np.isfinite(constant).all():
        return None
    return _compressed(constant.astype(np.float64).reshape(shape))


def _compressed(array: AnyArray) -> AnyArray:
    """One element for each axis along which nothing changes."""
    for axis in range(array.ndim):
        first = array.take([0], axis) if array.shape[axis] else array
        if array.shape[axis] > 1 and (array == first).all():
            array = first
    return array


def moved_array(carrier: ir.Node, array: AnyArray, *, backwards: bool) -> AnyArray | None:
    """An array that broadcasts to what the carrier reads, in the axes of its input or, forwards, of its result.

    None where it has another form there, and of what does not only move numbers.
    """
    source, result = (static_shape(value) for value in (carrier.inputs[0], carrier.outputs[0]))
    if carrier.domain != "" or source is None or result is None:
        return None
    if carrier.op_type == "Transpose":
        order = ints_attribute(carrier, "perm", range(len(source))[::-1])
        return array.transpose(np.argsort(order) if backwards else order)
    if carrier.op_type not in _RESHAPES:
        return None
    return _reshaped(array, result, source) if backwards else _reshaped(array, source, result)


def _reshaped(array: AnyArray, source: Sizes, target: Sizes) -> AnyArray | None:
    """The array, which broadcasts to `source`, as one that broadcasts to `target`, its elements in the same order.

    From the right, axes of both sides that hold as many elements belong together; what is left of an unknown size does
    as well, and there the array must not change.
    """
    if array.size == 1:
        return array.reshape([1] * len(target))
    full, reshaped = list(array.shape), [1] * len(target)
    i, j = len(source), len(target)
    while i or j:
        end, other, left, right = i, j, 1, 1
        while (left != right or i == end or j == other) and (i or j):
            takes_source = bool(i) and (left <= right or not j)
            i, j = (i - 1, j) if takes_source else (i, j - 1)
            size = source[i] if takes_source else target[j]
            if not size:
                return None if any(length > 1 for length in array.shape[:end]) else _finish(array, full, reshaped)
            left, right = (left * size, right) if takes_source else (left, right * size)
        if left != right:
            return None
        if any(length > 1 for length in array.shape[i:end]):
            full[i:end] = [size or 0 for size in source[i:end]]
            reshaped[j:other] = [size or 0 for size in target[j:other]]
    return _finish(array, full, reshaped)


def _finish(array: AnyArray, full: list[int], reshaped: list[int]) -> AnyArray:
    return _compressed(np.broadcast_to(array, full).reshape(reshaped))
