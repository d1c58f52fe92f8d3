"""Whether a graph's shapes and types fit each other: what onnxruntime would refuse to open is refused by node."""

from __future__ import annotations

import re
from typing import Final

import onnx
import onnx_ir as ir

from qpipe.errors import ModelError, one_line
from qpipe.ir.files.infer import follows_lists
from qpipe.nodes import describe, input_value, rank

# Of one failed node, as onnx writes it; several follow one another.
_FAILED: Final = re.compile(
    r"\(op_type:(?P<op>[^,)]*)(?:, node name: (?P<name>.*?))?\): (?:\[\w+InferenceError\] )?(?P<reason>[^\n]*)"
)
# A file may hold these before its opset has them for an op: they are cast, or the opset is raised.
_NEWER_TYPES: Final = re.compile(r"unsupported type: tensor\((?:bfloat16|float8\w*|u?int[24])\)")
# What may give a negative size, by onnx's count.
_WINDOWS: Final = frozenset({"Conv", "ConvTranspose", "AveragePool", "MaxPool", "LpPool", "Pad"})
_HIDDEN: Final = "Later"
_LARGE: Final = 1024
"""Bytes of a constant whose numbers say nothing about shapes."""


def check_shapes(model: ir.Model, source: str) -> None:
    """Raise ModelError for the first node whose inputs don't fit it or each other.

    The shapes that a file declares of what its nodes give need not be right: each becomes what onnx infers, and stays
    where that is nothing, as behind an op that onnx doesn't know.
    """
    values = {str(value.name): value for node in model.graph for value in node.outputs if value.name}
    try:
        inferred = _inferred(_without_claims(model), follows_lists(model), source)
    except ModelError:
        raise
    except onnx.shape_inference.InferenceError as error:
        raise ModelError(f"{source}: {_reason(error)}") from None
    except Exception:  # of a graph that is none: onnx's checker says what is wrong with it
        return
    for info in (*inferred.graph.value_info, *inferred.graph.output):
        if info.name in values and info.type.tensor_type.HasField("shape"):
            values[info.name].shape = ir.serde.deserialize_type_proto_for_shape(info.type)
            values[info.name].type = values[info.name].type or ir.serde.deserialize_type_proto_for_type(info.type)
    _check_axes(model, source)


def _check_axes(model: ir.Model, source: str) -> None:
    """What a reduction counts is a list, which onnx's inference doesn't ask for."""
    for node in model.graph:
        axes = input_value(node, 1) if node.op_type.startswith("Reduce") else None
        if axes is not None and rank(axes) not in (None, 1):
            found = f"'{axes.name}', of {rank(axes)} dimensions"
            raise ModelError(f"{source}: {describe(node)}: its axes are {found}, expected a list")


def _inferred(proto: onnx.ModelProto, follows: bool, source: str) -> onnx.ModelProto:
    """The graph with shapes, step by step: where a Slice reads a negative size, onnx ends the whole process."""
    stages = _stages(proto.graph)
    for stage in range(max(stages.values(), default=0) + 1):
        hidden = [proto.graph.node[index] for index, own in stages.items() if own > stage]
        for node in hidden:
            node.op_type += _HIDDEN
        inferred = _inferred_once(proto, follows)
        for node in hidden:
            node.op_type = node.op_type.removesuffix(_HIDDEN)
        _check_sizes(inferred.graph, source)
    return inferred


def _inferred_once(proto: onnx.ModelProto, follows: bool) -> onnx.ModelProto:
    try:
        return onnx.shape_inference.infer_shapes(proto, check_type=True, strict_mode=True, data_prop=follows)
    except onnx.shape_inference.InferenceError as error:
        if not _NEWER_TYPES.search(str(error)):
            raise
    return onnx.shape_inference.infer_shapes(proto, check_type=False, strict_mode=True, data_prop=follows)


def _stages(graph: onnx.GraphProto) -> dict[int, int]:
    """Each Slice by its position: how often windows, which may be larger than their image, and Slices alternate."""
    stages: dict[int, int] = {}
    known: dict[str, tuple[int, bool]] = {}
    for index, node in enumerate(graph.node):
        stage, is_behind = max((known[name] for name in node.input if name in known), default=(0, False))
        if node.op_type == "Slice":
            stage, is_behind = stage + is_behind, False
            stages[index] = stage
        is_behind |= node.op_type in _WINDOWS
        known.update(dict.fromkeys(node.output, (stage, is_behind)))
    return stages


def _check_sizes(graph: onnx.GraphProto, source: str) -> None:
    givers = {name: node for node in graph.node for name in node.output}
    for info in (*graph.value_info, *graph.output):
        sizes = [dim.dim_value for dim in info.type.tensor_type.shape.dim]
        if min(sizes, default=0) < 0 and info.name in givers:
            node = givers[info.name]
            name = f" '{one_line(node.name)}'" if node.name else ""
            raise ModelError(
                f"{source}: {node.op_type}{name}: what it gives has the sizes {sizes}, expected none below 0"
            )


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
