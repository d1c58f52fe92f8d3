"""Write a mean or a maximum over all spatial positions as a global pool, so that pooling has one form.

ReduceMean(x [N, C, ...], axes = all from 2 on, keepdims = 1) = GlobalAveragePool(x) [N, C, 1, ...]; keepdims = 0
flattens it to [N, C]. ReduceMax likewise is GlobalMaxPool. A mean of one axis and then of another is one of both, and
one behind a Transpose (channels last) is one before it, of the axes that these were.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final

import numpy as np
import onnx_ir as ir

from qpipe.ir.graph.rewrite import only_reader, rewrite
from qpipe.nodes import constant_input, initializer, int_attribute, ints_attribute, name_value, rank

_POOLS: Final = {"ReduceMean": "GlobalAveragePool", "ReduceMax": "GlobalMaxPool"}


@dataclass(frozen=True, kw_only=True)
class ReduceToGlobalPool(ir.passes.InPlacePass):
    """What reduces exactly the spatial axes becomes a global pool, and Flatten where it drops them."""

    name: ClassVar[str] = "reduce-to-global-pool"

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Replace every match; axes that are not constant and inputs of unknown rank don't match."""
        merged = rewrite(model, _POOLS.keys(), _try_merge)
        replaced = rewrite(model, _POOLS.keys(), _try_replace)
        return ir.passes.PassResult(model, merged.modified or replaced.modified)


def _axes(node: ir.Node) -> list[int] | None:
    """Counted from the first; None where they are computed, or the rank is unknown."""
    axes, dims = constant_input(node, 1), rank(node.inputs[0])
    return None if axes is None or dims is None else sorted({int(axis) % dims for axis in axes.reshape(-1)})


def _keeps(node: ir.Node) -> bool:
    return bool(int_attribute(node, "keepdims", 1))


def _try_merge(graph: ir.Graph, node: ir.Node) -> bool:
    """Let a mean of a mean be one, where both keep the axes or both drop them."""
    x = node.inputs[0]
    first = None if x is None or only_reader(x) is not node else x.producer()
    if first is None or first.op_type != node.op_type or first.domain != "" or _keeps(first) != _keeps(node):
        return False
    before, axes, dims = _axes(first), _axes(node), rank(first.inputs[0])
    if before is None or axes is None or dims is None:
        return False
    left = list(range(dims)) if _keeps(node) else [axis for axis in range(dims) if axis not in before]
    both = np.array(sorted({*before, *(left[axis] for axis in axes)}))
    node.replace_input_with(1, initializer(graph, f"{node.outputs[0].name}_axes", both))
    node.replace_input_with(0, first.inputs[0])
    return True


def _try_replace(graph: ir.Graph, node: ir.Node) -> bool:
    x, axes, dims = node.inputs[0], _axes(node), rank(node.inputs[0])
    if x is None or axes is None or dims is None or dims < 3 or x.dtype not in {ir.DataType.FLOAT, None}:
        return False
    transpose = x.producer()
    order = list(range(dims))
    if transpose is not None and transpose.op_type == "Transpose" and transpose.domain == "":
        order = list(ints_attribute(transpose, "perm", order[::-1]))
        x = transpose.inputs[0]
    kept = [order[axis] for axis in range(dims) if axis not in axes]
    if x is None or x.shape is None or {order[axis] for axis in axes} != set(range(2, dims)) or kept != [0, 1]:
        return False
    pool = ir.node(_POOLS[node.op_type], [x], name=node.name)
    new_nodes = [pool]
    pooled_shape = ir.Shape([*x.shape[:2], *[1] * (dims - 2)])
    name = node.name or str(node.outputs[0].name)
    if not _keeps(node):
        new_nodes.append(ir.node("Flatten", pool.outputs, {"axis": 1}, name=f"{name}_flatten"))
    elif order != sorted(order):
        new_nodes.append(ir.node("Transpose", pool.outputs, {"perm": order}, name=f"{name}_transpose"))
    if len(new_nodes) > 1:
        name_value(
            pool.outputs[0], f"{node.outputs[0].name}_pooled", x.type or ir.TensorType(ir.DataType.FLOAT), pooled_shape
        )
    ir.convenience.replace_nodes_and_values(graph, node, [node], new_nodes, node.outputs, new_nodes[-1].outputs)
    return True
