"""Attributes as a file may not have them: twice, of two types at once, and numbers that are none."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from typing import Final

import onnx

from qpipe.errors import ModelError, printable

_FIELDS: Final = {
    onnx.AttributeProto.FLOAT: "f",
    onnx.AttributeProto.INT: "i",
    onnx.AttributeProto.STRING: "s",
    onnx.AttributeProto.TENSOR: "t",
    onnx.AttributeProto.GRAPH: "g",
    onnx.AttributeProto.SPARSE_TENSOR: "sparse_tensor",
    onnx.AttributeProto.TYPE_PROTO: "tp",
    onnx.AttributeProto.FLOATS: "floats",
    onnx.AttributeProto.INTS: "ints",
    onnx.AttributeProto.STRINGS: "strings",
    onnx.AttributeProto.TENSORS: "tensors",
    onnx.AttributeProto.GRAPHS: "graphs",
    onnx.AttributeProto.SPARSE_TENSORS: "sparse_tensors",
    onnx.AttributeProto.TYPE_PROTOS: "type_protos",
}
"""Where a value of each type stands in the message."""
# Of what these hold, an infinite number stands for no bound; a Constant's readers are asked for its tensor.
_BOUNDS: Final = frozenset({"Clip", "Pad", "Constant"})


def check_attributes(nodes: Iterable[onnx.NodeProto], source: str) -> None:
    """Raise ModelError for an attribute that stands twice, of a type that its value has not, or NaN.

    Or infinite but no bound.
    """
    for node in nodes:
        counts = Counter(attribute.name for attribute in node.attribute)
        for attribute in node.attribute:
            owner = f"{source}: {node.op_type} '{printable(node.name)}': attribute '{printable(attribute.name)}'"
            if counts[attribute.name] > 1:
                raise ModelError(f"{owner} is there {counts[attribute.name]} times, expected once")
            held = {field.name for field, _ in attribute.ListFields()} & set(_FIELDS.values())
            expected = _FIELDS.get(attribute.type)
            if expected is not None and held - {expected}:
                kind = onnx.AttributeProto.AttributeType.Name(attribute.type)
                raise ModelError(f"{owner} is of type {kind}, but holds {', '.join(sorted(held))}")
            numbers = (attribute.f, *attribute.floats)
            if any(map(math.isnan, numbers)) or (any(map(math.isinf, numbers)) and node.op_type not in _BOUNDS):
                raise ModelError(f"{owner} is NaN or infinite, expected a finite number")
