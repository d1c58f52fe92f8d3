"""Bring the Transposes of an NHWC network together, so that they cancel.

    f(Transpose(x))                          =  Transpose(f(x))                     f elementwise
    Add(Transpose(x), c)                     =  Transpose(Add(x, c turned back))     and what else computes in pairs
    Add(Transpose(x), Transpose(y))          =  Transpose(Add(x, y))                 both of one order
    Concat(Transpose(x), ..., axis = a)      =  Transpose(Concat(x, ..., axis = order[a]))
    Transpose(Transpose(x, p), q)            =  Transpose(x, p[q]), which is x where that is no order

bit for bit. One of the network's input moves only towards another Transpose, which it may cancel: else a mean and a
scale for each channel would stand in front of it, where channels are last and no layer takes them. Then an activation
stands behind its layer, and a mean over height and width behind channels first, as Keras and tf2onnx write neither.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Final

import numpy as np
import onnx_ir as ir

from qpipe.ir.graph.rewrite import bypass, only_reader, rewrite
from qpipe.nodes import AnyArray, constant_array, initializer, int_attribute, ints_attribute, name_value, rank
from qpipe.ops.formula import ELEMENTWISE

_SINGLE: Final = frozenset({"Gelu", "Mish", "Softsign", "Selu", "Celu", "Not", "Ceil", "Floor", "Round"})
_MOVED: Final = ELEMENTWISE | _SINGLE | {"PRelu", "Concat", "Transpose"}


@dataclass(frozen=True, kw_only=True)
class PushTransposes(ir.passes.InPlacePass):
    """Each Transpose that one elementwise node alone reads goes behind it; two in a row become one or none."""

    name: ClassVar[str] = "push-transposes"

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Once through the graph: what is pushed is found again by what comes next."""
        return rewrite(
            model, _MOVED, lambda g, node: _try_merge(g, node) if node.op_type == "Transpose" else _try_push(g, node)
        )


def _order(value: ir.Value | None) -> tuple[int, ...] | None:
    """The order of the Transpose that gives the value; None of any other."""
    node = None if value is None else value.producer()
    dims = rank(value)
    if node is None or node.op_type != "Transpose" or node.domain != "" or dims is None:
        return None
    return ints_attribute(node, "perm", range(dims)[::-1])


def _try_merge(graph: ir.Graph, node: ir.Node) -> bool:
    first, order = _order(node.inputs[0]), _order(node.outputs[0])
    before = None if node.inputs[0] is None else node.inputs[0].producer()
    if first is None or order is None or before is None or before.graph is not graph or before.inputs[0] is None:
        return False
    x, merged = before.inputs[0], [first[axis] for axis in order]
    if merged == sorted(merged):
        producer = x.producer()
        is_free = producer is not None and producer.graph is graph and not x.is_graph_output()
        if node.outputs[0].is_graph_output() and not is_free:
            return False
        bypass(node, x)
        return True
    node.attributes["perm"] = ir.AttrInt64s("perm", merged)
    node.replace_input_with(0, x)
    return True


def _try_push(graph: ir.Graph, node: ir.Node) -> bool:
    data = [value for value in node.inputs if value is not None and constant_array(value) is None]
    orders = {_order(value) for value in data}
    order = orders.pop() if len(orders) == 1 else None
    if order is None or (len(data) == 1 and _is_of_input(data[0]) and not _leads_to_transpose(node)):
        return False
    if any(only_reader(value) is not node for value in data) or len(node.outputs) != 1:
        return False
    constants = {i: array for i, v in enumerate(node.inputs) if (array := constant_array(v)) is not None}
    turned = {i: _turned(array, order) for i, array in constants.items()}
    if any(array is None for array in turned.values()) or (constants and node.op_type == "Concat"):
        return False
    inputs: list[ir.Value | None] = []
    for i, value in enumerate(node.inputs):
        array = turned.get(i)
        producer = None if value is None else value.producer()
        if array is not None and array is not constants[i]:
            inputs.append(initializer(graph, f"{node.name or node.outputs[0].name}_turned", array))
        else:
            inputs.append(value if array is not None or producer is None else producer.inputs[0])
    result = node.outputs[0]
    attributes = dict(node.attributes)
    if node.op_type == "Concat":
        axis = order[int_attribute(node, "axis", 0) % len(order)]
        attributes["axis"] = ir.AttrInt64("axis", axis)
    new = ir.node(node.op_type, inputs, attributes, name=node.name)
    sizes = None if result.shape is None else ir.Shape([result.shape.dims[at] for at in np.argsort(order)])
    name_value(new.outputs[0], f"{result.name}_first", result.type or ir.TensorType(ir.DataType.FLOAT), sizes)
    back = ir.node("Transpose", new.outputs, {"perm": order}, name=f"{node.name or result.name}_transpose")
    ir.convenience.replace_nodes_and_values(graph, node, [node], [new, back], [result], back.outputs)
    return True


def _is_of_input(turned: ir.Value) -> bool:
    producer = turned.producer()
    return producer is not None and producer.inputs[0] is not None and producer.inputs[0].is_graph_input()


def _leads_to_transpose(node: ir.Node) -> bool:
    """Whether a Transpose comes next behind it, with nothing between that one could not go behind."""
    behind: ir.Node | None = node
    while behind is not None and behind.op_type in _MOVED - {"Transpose"} and len(behind.outputs) == 1:
        behind = only_reader(behind.outputs[0])
    return behind is not None and behind.op_type == "Transpose"


def _turned(array: AnyArray, order: Sequence[int]) -> AnyArray | None:
    """The constant as it broadcasts beside what is not turned yet; None where it has more axes."""
    if array.size == 1 and array.ndim <= len(order):
        return array
    if array.ndim > len(order):
        return None
    full = array.reshape((1,) * (len(order) - array.ndim) + array.shape)
    return np.ascontiguousarray(full.transpose(np.argsort(order)))
