"""ReduceMean and ReduceSum over any axes but the first, ReduceMax and ReduceMin; what ReduceL2 has in common with them.

The mean over all of an image, which keeps its axes, is an average pool (`qpipe.ops.average_pool`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import onnx_ir as ir

from qpipe.arith.certificate import CertificateRow, pool_row
from qpipe.arith.exact import Exact
from qpipe.arith.multiplier import FLOAT32_EXACT
from qpipe.arith.namespace import IntArray
from qpipe.arith.spec import WIDE_MAX
from qpipe.nodes import constant_input, int_attribute, rank, static_shape
from qpipe.ops.base import Carrier, Refusal, Role, Unweighted
from qpipe.ops.factors import Factors
from qpipe.ops.refused import OR_LEAVE
from qpipe.ops.work import NodeWork, Work

if TYPE_CHECKING:
    import torch

    from qpipe.ir.quantized.view import RequantizedLayer
    from qpipe.lowering.integer_builder import IntegerBuilder
    from qpipe.lowering.qoperator_builder import QOperatorBuilder
    from qpipe.ops.base import TorchFunction


class Reduction(Unweighted):
    """What is computed exactly of numbers along axes, and rounded once."""

    role = Role.POOL
    homogeneous = True

    def refusal(self, node: ir.Node) -> Refusal | None:
        """Its axes must be known."""
        return _axes_refusal(node)

    def ends_float(self, node: ir.Node) -> bool:
        """It does."""
        return True

    def factors(self, node: ir.Node, operands: Sequence[IntArray], book: Factors) -> IntArray:
        """One along the axes that it reduces."""
        return _reduced(node, book.over(operands[0], axes(node)))

    def lower_qoperator(self, layer: RequantizedLayer, b: QOperatorBuilder) -> None:
        """A float island, which is exact before it is rounded."""
        node, name, float32 = layer.node, layer.name, ir.DataType.FLOAT
        real = b.emit("DequantizeLinear", b.quantized_inputs(layer), name=f"{name}_dequantize", dtype=float32)
        attributes, inputs = node.attributes, [real, *node.inputs[1:]]
        reduced = b.emit(node.op_type, inputs, name=name, attributes=attributes, dtype=float32)
        grid = b.grid(layer.quantizer.rounded_to)
        b.finish(layer, b.emit("QuantizeLinear", [reduced, *grid], name=f"{name}_quantize"))


class MeanOrSum(Reduction):
    """The exact sum of integers, divided by their count where it is a mean, and rounded once."""

    op_types = ("ReduceMean", "ReduceSum")

    def refusal(self, node: ir.Node) -> Refusal | None:
        """How many numbers it sums must be known too."""
        refused = super().refusal(node)
        if refused is not None or count(node) is not None:
            return refused
        return Refusal("how many numbers it sums is open: export the model with a fixed size of these axes")

    def takes_wide(self, node: ir.Node) -> bool:
        """Where float32 holds the sum of so many."""
        numbers = count(node)
        return numbers is not None and numbers * WIDE_MAX <= FLOAT32_EXACT

    def sums_wide(self, node: ir.Node) -> bool:
        """The same."""
        return self.takes_wide(node)

    def work(self, node: ir.Node) -> NodeWork | None:
        """A sum, and a factor where it is a mean."""
        numbers, factor = count(node), int(node.op_type == "ReduceMean")
        if numbers is None:
            return None
        return NodeWork(Work(multiply=factor, add=numbers - 1), backward=Work(multiply=factor))

    def torch(self, node: ir.Node) -> TorchFunction:
        """`x -> sum(x)`, or the mean."""
        found, keeps, is_mean = axes(node), keeps_axes(node), node.op_type == "ReduceMean"

        def run(x: torch.Tensor) -> torch.Tensor:
            total = x.sum(found, keepdim=keeps)
            return total / math.prod(x.shape[axis] for axis in found) if is_mean else total

        return run

    def exact(self, layer: RequantizedLayer, *sources: IntArray) -> Exact:
        """The sum, to be divided by the count where it is a mean."""
        (x,), node = sources, layer.node
        found = axes(node)
        divisor = math.prod(x.shape[axis] for axis in found) if node.op_type == "ReduceMean" else 1
        return Exact(x.sum(axis=found, keepdims=keeps_axes(node)), layer.sources[0].grid.exponent, divisor)

    def prove(self, layer: RequantizedLayer, *, check_pairs: bool) -> Iterator[CertificateRow]:
        """float32 holds the sum; a mean is divided, not multiplied."""
        source, output = layer.sources[0].reach, layer.quantizer.rounded_to
        numbers = count(layer.node)
        counts = set() if numbers is None else {numbers}
        yield pool_row(layer.name, layer.op_type, source, output, counts=counts, divides=True)

    def lower_integer(self, layer: RequantizedLayer, b: IntegerBuilder) -> None:
        """Sums of codes; of a mean divided by the count."""
        numbers, is_mean = count(layer.node), layer.op_type == "ReduceMean"
        assert numbers is not None
        b.reduce(layer, axes(layer.node), numbers, keepdims=keeps_axes(layer.node), divides=is_mean)


class LargestOrSmallest(Carrier):
    """ReduceMax and ReduceMin: codes are in the order of what they stand for."""

    op_types = ("ReduceMax", "ReduceMin")
    homogeneous = True

    def refusal(self, node: ir.Node) -> Refusal | None:
        """Its axes must be known."""
        return _axes_refusal(node)

    def ends_float(self, node: ir.Node) -> bool:
        """It does."""
        return True

    def factors(self, node: ir.Node, operands: Sequence[IntArray], book: Factors) -> IntArray:
        """One along the axes that it looks along."""
        return _reduced(node, book.over(operands[0], axes(node)))

    def work(self, node: ir.Node) -> NodeWork | None:
        """The gradient is added where the largest was."""
        numbers = count(node)
        return None if numbers is None else NodeWork(Work(compare=numbers - 1), backward=Work(add=1))

    def torch(self, node: ir.Node) -> TorchFunction:
        """`x -> max(x)`, or the minimum."""
        found, keeps, is_max = axes(node), keeps_axes(node), node.op_type == "ReduceMax"

        def run(x: torch.Tensor) -> torch.Tensor:
            return x.amax(found, keeps) if is_max else x.amin(found, keeps)

        return run

    def moved(self, node: ir.Node, x: IntArray) -> IntArray:
        """The largest or the smallest."""
        found, keeps = axes(node), keeps_axes(node)
        extreme: IntArray = (x.max if node.op_type == "ReduceMax" else x.min)(axis=found, keepdims=keeps)
        return extreme


def axes(node: ir.Node) -> tuple[int, ...]:
    """What it reduces, counted from the first, where `_axes_refusal` has nothing against it."""
    given, dims = constant_input(node, 1), rank(node.inputs[0])
    assert dims is not None
    if given is None or not given.size:
        return tuple(range(dims))
    return tuple(sorted(int(axis) % dims for axis in given.reshape(-1)))


def count(node: ir.Node) -> int | None:
    """How many numbers become one; None where it is open."""
    shape = static_shape(node.inputs[0])
    sizes = [] if shape is None else [shape[axis] for axis in axes(node)]
    known = [size for size in sizes if size is not None]
    return math.prod(known) if shape is not None and len(known) == len(sizes) else None


def _reduced(node: ir.Node, x: IntArray) -> IntArray:
    """What has one element along the axes, as the result has it."""
    return x if keeps_axes(node) else x.squeeze(axes(node))


def keeps_axes(node: ir.Node) -> bool:
    """Whether what it reduces stays as an axis of one element."""
    return bool(int_attribute(node, "keepdims", 1))


def _axes_refusal(node: ir.Node) -> Refusal | None:
    """Constant axes, and not the first, which counts images."""
    if rank(node.inputs[0]) is None:
        return Refusal("the shape of what it reduces is unknown: export the model with shapes")
    if len(node.inputs) > 1 and node.inputs[1] is not None and constant_input(node, 1) is None:
        return Refusal("its axes are computed: export the model with constant ones")
    given = constant_input(node, 1)
    if (given is None or not given.size) and int_attribute(node, "noop_with_empty_axes", 0):
        return Refusal(f"it does nothing, because it has no axes: take it out, {OR_LEAVE}")
    if 0 in axes(node):
        return Refusal(f"it reduces the first axis, which counts images: reduce the others alone, {OR_LEAVE}")
    return None
