"""Flatten, Reshape, Squeeze, Unsqueeze, Transpose, Identity, Dropout: integers in another shape or order."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from qpipe.arith.namespace import A, IntArray
from qpipe.nodes import constant_array, int_attribute, ints_attribute, rank, require_constant, static_shape
from qpipe.ops.base import Carrier, Refusal
from qpipe.ops.constant_affine import moved_array
from qpipe.ops.factors import Factors
from qpipe.ops.refused import size_advice

if TYPE_CHECKING:
    from qpipe.ir.quantized.view import RequantizedLayer
    from qpipe.lowering.integer_builder import IntegerBuilder
    from qpipe.lowering.qoperator_builder import QOperatorBuilder
    from qpipe.ops.base import TorchFunction

Moved = Callable[[Any], Any]
"""Of an array of numpy or torch: reshaped or reordered."""


class Shape(Carrier):
    """What changes only the shape."""

    op_types = ("Flatten", "Reshape", "Squeeze", "Unsqueeze", "Transpose", "Identity", "Dropout")
    only_reshapes = True
    homogeneous = True
    moves_wide = True

    def refusal(self, node: ir.Node) -> Refusal | None:
        """Constant arguments, and axes to count from."""
        if node.op_type == "Dropout":
            return None
        if node.op_type == "Transpose" and rank(node.inputs[0]) is None:
            return Refusal("how many dimensions it reorders is unknown: export the model with a fixed input size")
        return arguments_refusal(node, expected=1 if node.op_type in _NEEDS_ARGUMENT else 0)

    def is_view(self, node: ir.Node) -> bool:
        """All but what moves the numbers."""
        return node.op_type not in {"Transpose", "Dropout"}

    def factors(self, node: ir.Node, operands: Sequence[IntArray], book: Factors) -> IntArray:
        """Those of the numbers in their new places."""
        (x,) = operands
        if node.op_type == "Dropout":
            return x
        found = moved_array(node, x, backwards=False)
        return self.without_factors(node, operands, book) if found is None else found

    def fits_skip(self, node: ir.Node) -> bool:
        """Nothing that reorders."""
        return node.op_type == "Identity"

    def torch(self, node: ir.Node) -> TorchFunction:
        """`x -> x` in the new shape."""
        return _BUILDERS[node.op_type](node)

    def moved(self, node: ir.Node, x: IntArray) -> IntArray:
        """The same functions, which know both libraries."""
        found: IntArray = _BUILDERS[node.op_type](node)(x)
        return found

    def lower_qoperator(self, layer: RequantizedLayer, b: QOperatorBuilder) -> None:
        """The node itself on codes; Dropout, which takes floats only, does nothing."""
        if layer.op_type != "Dropout":
            super().lower_qoperator(layer, b)
            return
        source = layer.sources[0]
        b.carry(layer, b.emit("Identity", [b.codes(source)], name=layer.name), source.grid)

    def lower_integer(self, layer: RequantizedLayer, b: IntegerBuilder) -> None:
        """The node itself on codes; what does nothing keeps the layout."""
        if layer.op_type not in {"Identity", "Dropout"}:
            super().lower_integer(layer, b)
            return
        source = layer.sources[0]
        layout = b.layout(source)
        b.carry(layer, b.codes(source, layout), layout, source.grid)


def arguments_refusal(node: ir.Node, *, expected: int = 0) -> Refusal | None:
    """Why the arguments behind the first input keep a carrier from an integer form; expected: how many it needs."""
    arguments = [value for value in node.inputs[1:] if value is not None]
    if len(arguments) >= expected and all(constant_array(value) is not None for value in arguments):
        return None
    return Refusal(f"its arguments are computed: {size_advice(node)}")


def _flatten(node: ir.Node) -> Moved:
    axis = int_attribute(node, "axis", 1)

    def run(x: A) -> A:
        split = axis + x.ndim if axis < 0 else axis
        return x.reshape(math.prod(x.shape[:split]), -1)

    return run


def _reshape(node: ir.Node) -> Moved:
    target = [int(size) for size in require_constant(node, 1, "shape")]
    keeps_zero = bool(int_attribute(node, "allowzero", 0))
    source = None if node.inputs[0] is None else static_shape(node.inputs[0])
    copied = {i for i, size in enumerate(target) if size == 0 and not keeps_zero}
    # Where the file fixes the batch and the shape repeats it, any other batch passes as well: rows stay rows.
    if source and target and source[0] == target[0] != 0:
        copied.add(0)

    def run(x: A) -> A:
        return x.reshape([x.shape[i] if i in copied else size for i, size in enumerate(target)])

    return run


def _squeeze(node: ir.Node) -> Moved:
    axes = tuple(int(axis) for axis in require_constant(node, 1, "axes"))
    return lambda x: x.squeeze(axes)


def _unsqueeze(node: ir.Node) -> Moved:
    axes = [int(axis) for axis in require_constant(node, 1, "axes")]

    def run(x: A) -> A:
        dims = x.ndim + len(axes)
        added, sizes = {axis % dims for axis in axes}, iter(x.shape)
        return x.reshape([1 if axis in added else next(sizes) for axis in range(dims)])

    return run


def _transpose(node: ir.Node) -> Moved:
    order = ints_attribute(node, "perm", tuple(reversed(range(rank(node.inputs[0]) or 0))))
    return lambda x: x.transpose(order) if isinstance(x, np.ndarray) else x.permute(order)


def _identity(node: ir.Node) -> Moved:
    return lambda x: x


_BUILDERS = {
    "Flatten": _flatten,
    "Reshape": _reshape,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Transpose": _transpose,
    "Identity": _identity,
    "Dropout": _identity,
}
_NEEDS_ARGUMENT = frozenset({"Reshape", "Squeeze", "Unsqueeze"})
