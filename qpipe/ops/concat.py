"""Concat: its inputs are requantized to one grid before it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from qpipe.arith.exact import Exact
from qpipe.arith.namespace import IntArray
from qpipe.arith.spec import QuantSpec
from qpipe.nodes import constant_array, int_attribute, static_shape
from qpipe.ops.base import Carrier, Refusal
from qpipe.ops.factors import Factors
from qpipe.ops.forms import StandardForm
from qpipe.ops.refused import OR_LEAVE

if TYPE_CHECKING:
    import torch

    from qpipe.ir.quantized.view import RequantizedLayer
    from qpipe.lowering.integer_builder import IntegerBuilder
    from qpipe.ops.base import TorchFunction


class Concat(Carrier):
    """Joins tensors along an axis."""

    op_types = ("Concat",)
    standard_forms = (StandardForm("QLinearConcat", "Concat", slice(2, None, 3)),)
    homogeneous = True
    only_joins = True

    def refusal(self, node: ir.Node) -> Refusal | None:
        """Nothing but activations."""
        if all(constant_array(value) is None for value in node.inputs):
            return None
        return Refusal(f"it joins a constant, which has no grid: take that out and train on, {OR_LEAVE}")

    def operands(self, node: ir.Node) -> tuple[ir.Value, ...]:
        """All."""
        return tuple(value for value in node.inputs if value is not None)

    def factors(self, node: ir.Node, operands: Sequence[IntArray], book: Factors) -> IntArray:
        """Those of all, in a row, where their lengths are known; else one along the axis."""
        shapes, axis = [static_shape(value) for value in node.inputs], int_attribute(node, "axis", 0)
        if all(x.shape[axis] == 1 for x in operands):
            found = operands[0]
            for x in operands[1:]:
                found = book.unite(found, x)
            return found
        sizes = [shape[axis] if shape else None for shape in shapes]
        if None in sizes:
            return self.without_factors(node, operands, book)
        others = np.broadcast_shapes(*(np.delete(x.shape, axis % x.ndim) for x in operands))
        full = [np.insert(others, axis % len(shapes[0] or ()), size or 0) for size in sizes]
        return np.concatenate([np.broadcast_to(x, shape) for x, shape in zip(operands, full, strict=True)], axis)

    def torch(self, node: ir.Node) -> TorchFunction:
        """`(a, b, ...) -> [a; b; ...]`."""
        axis = int_attribute(node, "axis", 0)

        def run(*tensors: torch.Tensor) -> torch.Tensor:
            import torch

            return torch.cat(tensors, axis)

        return run

    def carried(self, node: ir.Node, sources: Sequence[QuantSpec]) -> QuantSpec:
        """The finest grid of the widest width whose range holds all of the inputs' ranges."""
        bits = max(spec.bits for spec in sources)
        log2_ymax = max(spec.log2_ymax for spec in sources)
        joint = QuantSpec.for_range(bits, log2_ymax, signed=any(spec.is_signed for spec in sources))
        return joint.refined(
            min(spec.qmin * spec.scale for spec in sources), max(spec.qmax * spec.scale for spec in sources)
        )

    def exact(self, layer: RequantizedLayer, *sources: IntArray) -> Exact:
        """All in the finest input's steps."""
        unit = min(q.grid.exponent for q in layer.sources)
        parts = [x << (q.grid.exponent - unit) for x, q in zip(sources, layer.sources, strict=True)]
        return Exact(np.concatenate(parts, int_attribute(layer.node, "axis", 0)), unit)

    def lower_integer(self, layer: RequantizedLayer, b: IntegerBuilder) -> None:
        """Concat of codes, in the layout that all of them have."""
        layout = b.common_layout(layer.sources)
        dims = len(layer.sources[0].codes.shape or ())
        axis = int_attribute(layer.node, "axis", 0)
        value = b.concat([b.codes(q, layout) for q in layer.sources], b.axis(axis, dims, layout))
        b.carry(layer, value, layout, self.carried(layer.node, [q.grid for q in layer.sources]))
