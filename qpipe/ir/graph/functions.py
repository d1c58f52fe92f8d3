"""Whether a function of a file is one of qpipe's own: by its body, not by its name alone.

What a node of the domain `qpipe` computes is known by its name wherever a graph is read. A file may carry any body
under that name, and every runtime runs the body.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import onnx_ir as ir

from qpipe.errors import ModelError
from qpipe.formats.table import FORMATS
from qpipe.nodes import DOMAIN
from qpipe.ops import OPS


def is_own(model: ir.Model, function: ir.Function) -> bool:
    """Whether it is the function that qpipe writes by this name."""
    if function.domain != DOMAIN:
        return False
    return any(_text(function) == _text(own) for own in _own(model, function.name))


def check_functions(model: ir.Model) -> None:
    """ModelError that names a function of a quantized graph which is not qpipe's own."""
    for function in model.functions.values():
        if not is_own(model, function):
            raise ModelError(
                f"function '{function.domain}.{function.name}': its body is none that qpipe writes; expected a file as "
                "calibrate or finetune wrote it"
            )


def _own(model: ir.Model, name: str) -> Iterator[ir.Function]:
    """Those of this name, at the model's opset where they have none of their own."""
    made = ir.Model(ir.Graph([], [], nodes=[], opset_imports=dict(model.opset_imports)), ir_version=model.ir_version)
    op = OPS.get(name)
    if op is not None and DOMAIN in op.domains:
        op.define(made)
    for known in FORMATS.values():
        if known.codes_op == name and (function := known.codes_function()) is not None:
            made.functions.setdefault((DOMAIN, name, ""), ir.serde.deserialize_function(function.to_function_proto()))
    yield from made.functions.values()


def _text(function: ir.Function) -> list[Any]:
    """What it computes, whatever its values are called."""
    numbers: dict[ir.Value, int] = {}
    attributes = [_attribute(attribute, numbers) for _, attribute in sorted(function.attributes.items())]
    return [sorted(function.opset_imports.items()), attributes, *_body(function, numbers)]


def _body(graph: ir.Graph | ir.Function, numbers: dict[ir.Value, int]) -> list[Any]:
    """Nodes in order, values by when they came."""
    for value in graph.inputs:
        numbers[value] = len(numbers)
    lines: list[Any] = [len(graph.inputs)]
    for node in graph:
        inputs = [None if value is None else numbers.get(value, -1) for value in node.inputs]
        attributes = [_attribute(attribute, numbers) for _, attribute in sorted(node.attributes.items())]
        lines.append([node.domain, node.op_type, inputs, attributes, len(node.outputs)])
        for value in node.outputs:
            numbers[value] = len(numbers)
    lines.append([numbers.get(value, -1) for value in graph.outputs])
    return lines


def _attribute(attribute: ir.Attr, numbers: dict[ir.Value, int]) -> list[Any]:
    if attribute.is_ref():
        return [attribute.name, attribute.type, "of the call", attribute.ref_attr_name]
    value = attribute.value
    if attribute.type == ir.AttributeType.GRAPH:
        return [attribute.name, *_body(attribute.as_graph(), dict(numbers))]
    if attribute.type == ir.AttributeType.TENSOR:
        tensor = attribute.as_tensor()
        return [attribute.name, tensor.dtype, list(tensor.shape), tensor.tobytes()]
    return [attribute.name, attribute.type, list(value) if isinstance(value, tuple | list) else value]
