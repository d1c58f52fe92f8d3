"""Find floats in a graph that must have none between its first and its last integer."""

from __future__ import annotations

from collections.abc import Iterator, Set

import onnx_ir as ir

from qpipe.ops.quantizer_parts import dequantizes, quantizes

_FLOATS = frozenset(
    dtype for dtype in ir.DataType if dtype.name.startswith(("FLOAT", "BFLOAT", "DOUBLE", "COMPLEX"))
)  # fmt: skip


def float_tensors(model: ir.Model, floats: Set[str | None] = frozenset()) -> list[str]:
    """What is float, or of unknown type, strictly between the first integer tensor and the last.

    floats: names of nodes that may be float, with the QuantizeLinear and DequantizeLinear around them: islands, and a
    tail that is known to be one.

    Names of values and initializers, and `node.attribute` for attributes, tensors and subgraphs in them included. A
    QuantizeLinear of a graph input is the begin; the end is a DequantizeLinear or a Cast whose floats nothing quantizes
    again: they and the float tail behind them are not part of it, nor are their own scales.
    """
    outside = _outside(model.graph, {node for node in model.graph if node.name in floats})
    inside = [node for node in model.graph if node not in outside]
    found: dict[str, None] = {}
    for node in inside:
        for value in (*node.inputs, *node.outputs):
            if value is not None and _is_float(value):
                found[str(value.name)] = None
        for name in _float_attributes(node):
            found[f"{node.name}.{name}"] = None
    return list(found)


def _outside(graph: ir.Graph, floats: set[ir.Node]) -> set[ir.Node]:
    """The float nodes, the QuantizeLinear of each float input (or the Cast that makes tokens of it) and of what they
    give, and each node that makes floats for nothing but them and outputs, with all that follows it.
    """
    given = [value for node in floats for value in node.outputs]
    outside = floats | {
        node
        for value in (*(value for value in graph.inputs if value.dtype in _FLOATS), *given)
        for node in value.consumers()
        if (quantizes(node) or (value.is_graph_input() and _gives_integers(node))) and node.inputs[0] is value
    }
    for node in graph:
        makes_floats = (dequantizes(node) or node.op_type == "Cast") and node.outputs[0].dtype in _FLOATS
        if makes_floats and not any(quantizes(f) or _gives_integers(f) for f in _after(node, floats)):
            outside.add(node)
            outside.update(_after(node, floats))
    return outside


def _gives_integers(node: ir.Node) -> bool:
    return node.op_type in {"MatMulInteger", "ConvInteger", "Cast"} and all(
        value.dtype not in _FLOATS for value in node.outputs
    )


def _after(node: ir.Node, floats: Set[ir.Node]) -> Iterator[ir.Node]:
    """What follows a node, but for those that may be float and what these lead to."""
    seen: set[ir.Node] = set(floats)
    stack = [follower for value in node.outputs for follower in value.consumers()]
    while stack:
        current = stack.pop()
        if current in seen:
            continue
        seen.add(current)
        yield current
        stack.extend(follower for value in current.outputs for follower in value.consumers())


def _is_float(value: ir.Value) -> bool:
    """Whether it is float, or may be: a value whose type is unknown counts."""
    return value.dtype is None or value.dtype in _FLOATS


def _float_attributes(node: ir.Node) -> Iterator[str]:
    for attribute in node.attributes.values():
        if _is_float_attribute(attribute):
            yield attribute.name


def _is_float_attribute(attribute: ir.Attr) -> bool:
    """Whether it is, or holds, a float. No integer form needs a subgraph: what one holds is not looked into."""
    kinds = ir.AttributeType
    if attribute.is_ref() or attribute.type in {kinds.FLOAT, kinds.FLOATS, kinds.GRAPH, kinds.GRAPHS}:
        return True
    if attribute.type == kinds.TENSOR:
        return attribute.as_tensor().dtype in _FLOATS
    return attribute.type == kinds.TENSORS and any(tensor.dtype in _FLOATS for tensor in attribute.as_tensors())
