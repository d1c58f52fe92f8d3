"""Whether a graph's shapes and types fit each other: what onnxruntime would refuse to open is refused by node."""

from __future__ import annotations

import re
from typing import Final

import onnx
import onnx_ir as ir

from qpipe.errors import ModelError, one_line
from qpipe.ir.files.infer import follows_lists

# Of one failed node, as onnx writes it; several follow one another.
_FAILED: Final = re.compile(
    r"\(op_type:(?P<op>[^,)]*)(?:, node name: (?P<name>.*?))?\): (?:\[\w+InferenceError\] )?(?P<reason>[^\n]*)"
)
# A file may hold these before its opset has them for an op: they are cast, or the opset is raised.
_NEWER_TYPES: Final = re.compile(r"unsupported type: tensor\((?:bfloat16|float8\w*|u?int[24])\)")
_LARGE: Final = 1024
"""Bytes of a constant whose numbers say nothing about shapes."""


def check_shapes(model: ir.Model, source: str) -> None:
    """Raise ModelError for the first node whose inputs don't fit it or each other.

    The shapes that a file declares of what its nodes give need not be right: each becomes what onnx infers, and stays
    where that is nothing, as behind an op that onnx doesn't know.
    """
    values = {str(value.name): value for node in model.graph for value in node.outputs if value.name}
    try:
        inferred = _inferred(_without_claims(model), follows_lists(model))
    except onnx.shape_inference.InferenceError as error:
        raise ModelError(f"{source}: {_reason(error)}") from None
    except Exception:  # of a graph that is none: onnx's checker says what is wrong with it
        return
    for info in (*inferred.graph.value_info, *inferred.graph.output):
        if info.name in values and info.type.tensor_type.HasField("shape"):
            values[info.name].shape = ir.serde.deserialize_type_proto_for_shape(info.type)
            values[info.name].type = values[info.name].type or ir.serde.deserialize_type_proto_for_type(info.type)


def _inferred(proto: onnx.ModelProto, follows: bool) -> onnx.ModelProto:
    try:
        return onnx.shape_inference.infer_shapes(proto, check_type=True, strict_mode=True, data_prop=follows)
    except onnx.shape_inference.InferenceError as error:
        if not _NEWER_TYPES.search(str(error)):
            raise
    return onnx.shape_inference.infer_shapes(proto, check_type=False, strict_mode=True, data_prop=follows)


def _without_claims(model: ir.Model) -> onnx.ModelProto:
    """The model without what it declares of its nodes' outputs, and without large constants' numbers."""
    copy = model.clone()
    for value in list(copy.graph.initializers.values()):
        if value.const_value is not None and value.const_value.nbytes > _LARGE:
            del copy.graph.initializers[str(value.name)]
            value.const_value = None
            copy.graph.inputs.append(value)
    for node in ir.traversal.RecursiveGraphIterator(copy.graph):
        for value in node.outputs:
            value.shape = None
    return ir.to_proto(copy)


def _reason(error: Exception) -> str:
    """Which node, and why, of onnx's message."""
    failed = _FAILED.search(str(error))
    if failed is None:
        return one_line(error)
    node = f"{failed['op']} '{failed['name']}'" if failed["name"] else failed["op"]
    return f"{one_line(node)}: {one_line(failed['reason'])}"
