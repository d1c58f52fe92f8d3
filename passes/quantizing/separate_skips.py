"""Let a residual stream have other factors behind a sum than before it, by a BatchNormalization on the skip.

A stream that nothing but BatchNormalizations reads may have any factor per channel (see `equalize-channels`), but only
one along all of its sums. Where a branch makes some channels much larger and others not, no factor fits both sides of
its sum. A BatchNormalization that gives what it reads, put on the skip, takes one factor and gives another:

    x + f(x)    becomes    BatchNormalization(x) + f(x)

The function stays, to the bit. It costs a product for each number of the skip, and is done only where what a channel
grows by differs by `SPREAD` bits and more among the channels.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Final

import numpy as np
import onnx_ir as ir

from passes.quantizing.equalize_channels import largest_numbers
from passes.rewrites.affine_to_batch_norm import batch_norm_of
from qpipe.arith.namespace import Float64Array, IntArray
from qpipe.calibration.shard import ALONE, Shard
from qpipe.ir.graph.layers import group_layers
from qpipe.ir.graph.shared_channels import factor_graph
from qpipe.nodes import name_value, static_shape

SPREAD: Final = 2.0
"""Bits, from the tenth to the ninetieth of a hundred channels: what is above costs a bit for many channels."""


@dataclass(frozen=True, kw_only=True)
class SeparateSkips(ir.passes.InPlacePass):
    """Run `inputs` (float32 `[N, C, H, W]`) through the normalized float network, and look at its sums."""

    name: ClassVar[str] = "separate-skips"

    inputs: Any = field(default=(), repr=False, metadata={"argument": False})
    shard: Shard = field(default=ALONE, repr=False, metadata={"argument": False})

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Insert; ModelError and DataError as running the network raises them."""
        found = dict(_skips(model.graph)) if len(self.inputs) else {}
        if not found:
            return ir.passes.PassResult(model, False)
        tensors = {str(v.name): factors for add, (skip, factors) in found.items() for v in (skip, add.outputs[0])}
        sizes = largest_numbers(model, tensors, self.inputs, self.shard)
        modified = False
        for add, (skip, factors) in found.items():
            if _spread(sizes[str(skip.name)], sizes[str(add.outputs[0].name)]) >= SPREAD:
                _separate(model.graph, add, skip, factors)
                modified = True
        return ir.passes.PassResult(model, modified)


def _skips(graph: ir.Graph) -> list[tuple[ir.Node, tuple[ir.Value, IntArray]]]:
    """Sums whose factors cost nothing, with the operand that others read too and the factors of the sum's channels."""
    layers = group_layers(graph)
    free = {
        value: factors
        for shared in factor_graph(graph, layers).shared
        if shared.is_free
        for value, factors in shared.tensors.items()
    }
    found = []
    for layer in layers:
        factors, shapes = free.get(layer.output), {static_shape(value) for value in layer.inputs}
        skips = [value for value in layer.inputs if len(value.uses()) > 1]
        if factors is None or not layer.op.is_sum or len(layer.inputs) != 2 or len(skips) != 1 or len(shapes) != 1:
            continue
        if layer.activation is None and sum(length > 1 for length in factors.shape) == 1:
            found.append((layer.node, (skips[0], factors)))
    return found


def _spread(before: Float64Array, behind: Float64Array) -> float:
    """By how many bits what the channels grow by differs; of those that there are on both sides."""
    alive = (before > 0) & (behind > 0)
    growth = np.log2(behind[alive]) - np.log2(before[alive])
    return float(np.ptp(np.percentile(growth, [10, 90]))) if growth.size else 0.0


def _separate(graph: ir.Graph, add: ir.Node, skip: ir.Value, factors: IntArray) -> None:
    """A BatchNormalization along the channels' axis, between Transposes where that is not the second."""
    axis, count = int(np.argmax(factors.shape)), factors.size
    name, order = f"{add.name or add.outputs[0].name}/skip", list(range(factors.ndim))
    order.insert(1, order.pop(axis))
    nodes: list[ir.Node] = []
    value = skip
    for turn in (order, None, np.argsort(order).tolist()):
        if turn is None:
            node = batch_norm_of(graph, value, np.ones(count), np.zeros(count), name=name)
        elif axis != 1:
            node = ir.node("Transpose", [value], {"perm": turn}, name=f"{name}/transpose{len(nodes)}")
        else:
            continue
        sizes = value.shape if turn is None or value.shape is None else [value.shape[place] for place in turn]
        name_value(node.outputs[0], f"{node.name}_output", ir.TensorType(ir.DataType.FLOAT), _shape(sizes))
        nodes.append(node)
        value = node.outputs[0]
    graph.insert_before(add, nodes)
    add.replace_input_with(list(add.inputs).index(skip), value)


def _shape(sizes: Any) -> ir.Shape | None:
    return None if sizes is None else ir.Shape(sizes)
