"""What passes that rewrite a graph node by node have in common."""

from __future__ import annotations

from collections.abc import Callable, Sequence, Set
from typing import Any

import onnx_ir as ir

from qpipe.nodes import AnyArray, constant_array, initializer, name_value
from qpipe.ops import activation_of


def rewrite(
    model: ir.Model, op_types: Set[str], attempt: Callable[[ir.Graph, ir.Node], bool], *, backwards: bool = False
) -> ir.passes.PassResult:
    """Try each node of these standard ops that is there when its turn comes; `attempt` says whether it did anything.

    backwards: from the last node of the graph to the first.
    """
    graph = model.graph
    nodes = [node for node in graph if node.op_type in op_types and node.domain == ""]
    changed = [node.graph is graph and attempt(graph, node) for node in (reversed(nodes) if backwards else nodes)]
    return ir.passes.PassResult(model, any(changed))


class Steps:
    """Nodes that come into the place of one, each of which reads what the one before gives, and constants."""

    def __init__(self, graph: ir.Graph, node: ir.Node, value: ir.Value) -> None:
        """value: what the first one reads."""
        self._graph, self._node, self._value = graph, node, value
        self._name, self._new = node.name or str(node.outputs[0].name), list[ir.Node]()

    def add(
        self,
        op_type: str,
        what: str,
        constants: Sequence[AnyArray],
        dims: Sequence[int | ir.SymbolicDim],
        **attributes: Any,
    ) -> ir.Node:
        """A node whose float result has these dims, which is given back.

        what: behind the name of the one that goes; "" is that itself.
        """
        name = f"{self._name}_{what}" if what else self._name
        operands = [initializer(self._graph, f"{name}_{i}", array) for i, array in enumerate(constants)]
        self._new.append(ir.node(op_type, [self._value, *operands], attributes, name=name))
        self._value = self._new[-1].outputs[0]
        name_value(self._value, f"{name}_result", ir.TensorType(ir.DataType.FLOAT), ir.Shape(dims))
        return self._new[-1]

    def replace(self) -> None:
        """Take the node out; what was said of its result is said of the new one."""
        old, graph = self._node, self._graph
        result = old.outputs[0]
        self._value.type, self._value.shape = result.type or self._value.type, result.shape or self._value.shape
        ir.convenience.replace_nodes_and_values(graph, old, [old], self._new, [result], [self._value])


def added_constant(add: ir.Node) -> tuple[ir.Node, AnyArray] | None:
    """The node whose result an Add alone reads, and the constant that it adds to that; None for another Add."""
    for product, offset in (add.inputs, add.inputs[::-1]):
        constant = constant_array(offset)
        if product is None or constant is None or only_reader(product) is not add:
            continue
        producer = product.producer()
        if producer is not None:
            return producer, constant
    return None


def activation_behind(value: ir.Value) -> ir.Node | None:
    """The activation that alone reads the value, and so belongs to the layer that gives it."""
    reader = only_reader(value)
    return reader if reader is not None and activation_of(reader) is not None else None


def only_reader(value: ir.Value) -> ir.Node | None:
    """The one node that reads the value, once, in its own graph (not in a branch), where that doesn't give it too."""
    uses = list(value.uses())
    if len(uses) != 1 or value.is_graph_output() or uses[0].node.graph is not value.graph:
        return None
    return uses[0].node


def insert_named(before: ir.Node, node: ir.Node, dtype: ir.TypeProtocol, shape: ir.Shape | None) -> ir.Value:
    """A new node of one result before another of a graph; its result, which has its name with `_output` added."""
    assert isinstance(before.graph, ir.Graph)
    name_value(node.outputs[0], f"{node.name}_output", dtype, shape)
    before.graph.insert_before(before, node)
    return node.outputs[0]


def bypass(node: ir.Node, value: ir.Value) -> None:
    """Take out a node whose one result is to be `value`, which a node of the same graph gives and no output is."""
    result, graph = node.outputs[0], node.graph
    assert isinstance(graph, ir.Graph)
    if result.is_graph_output():
        # The output keeps its name, type and shape.
        value.name, value.type = result.name, result.type or value.type
        value.shape = result.shape if result.shape is not None else value.shape
    elif value.shape is None:
        value.shape, value.type = result.shape, value.type or result.type
    result.replace_all_uses_with(value, replace_graph_outputs=True)
    graph.remove(node, safe=True)
