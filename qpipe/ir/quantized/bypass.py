"""Take quantizers out of a QDQ graph that what they were written for has left.

The form stays the one that `qpipe.ir.quantized.view` reads and onnxruntime computes exactly: one quantizer behind each
layer, and a Clip of the integers wherever one quantizer reads another.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from qpipe.arith.spec import QuantSpec
from qpipe.ir.graph.layers import Layer
from qpipe.ir.quantized.notes import write_bound
from qpipe.ir.quantized.qdq import (
    ActivationQuantizer,
    clip_of_codes,
    read_activation_quantizer,
    rounding_nodes,
)
from qpipe.nodes import set_constant_input
from qpipe.ops import Curve, Rectifier
from qpipe.ops.quantizer_parts import dequantizes, may_change_codes, quantizes


def quantizers_reading(value: ir.Value) -> list[ActivationQuantizer] | None:
    """The quantizers that read a value; None where anything else reads it, or nothing."""
    found: list[ActivationQuantizer] = []
    for node, index in value.uses():
        end = _dequantize_node(node) if quantizes(node) and index == 0 else None
        quantizer = read_activation_quantizer(end) if end is not None else None
        if quantizer is None:
            return None
        found.append(quantizer)
    return found if found and not value.is_graph_output() else None


def quantizer_before(value: ir.Value) -> ActivationQuantizer | None:
    """The quantizer that ends in this value, if one does."""
    node = value.producer()
    return read_activation_quantizer(node) if node is not None and dequantizes(node) else None


def replace_value(old: ir.Value, new: ir.Value) -> None:
    """Readers of the one, and the graph's outputs, get the other, under the name that an output has outside."""
    was_output = old.is_graph_output()
    old.replace_all_uses_with(new, replace_graph_outputs=True)
    if was_output:
        old.name, new.name = new.name, old.name


def narrow(wide: ActivationQuantizer) -> list[ir.Value]:
    """Take away a quantizer behind which nothing but requantizations is left; equal ones become one.

    Returns what is dead then. A layer has one quantizer: where the requantizations' grids differ, the wide one stays.
    """
    readers = quantizers_reading(wide.output)
    if readers is None or isinstance(wide.function, Curve):
        return []
    kept, *others = readers
    if any((other.grid, other.table) != (kept.grid, kept.table) or other.output.is_graph_output() for other in others):
        return []
    for other in others:
        other.output.replace_all_uses_with(kept.output)
    _quantize_node(kept).replace_input_with(0, wide.source)
    inherit_bound(wide, kept)
    return [wide.output, *(other.output for other in others)]


def fuse_batch_norm(product: ir.Value) -> list[ir.Value]:
    """Take away the quantizer between a Conv or Gemm and a BatchNormalization that alone reads it: they are one layer.

    Returns what is dead then.
    """
    producer, quantizers = product.producer(), quantizers_reading(product)
    if producer is None or quantizers is None or len(quantizers) > 1:
        return []
    output = quantizers[0].output
    readers = list(output.uses())
    if len(readers) != 1 or output.is_graph_output() or not Layer(producer).takes_batch_norm:
        return []
    reader, index = readers[0]
    if index != 0 or not Layer(reader).is_batch_norm:
        return []
    reader.replace_input_with(0, product)
    return [output]


def inherit_bound(first: ActivationQuantizer, second: ActivationQuantizer) -> None:
    """Cut the second's range as the first's was: at 0, and at a ReLU6's bound, which is a top that is not all ones."""
    spec = first.rounded_to
    if isinstance(first.function, Rectifier) and second.function is None:
        write_bound(_quantize_node(second), first.function.bound)
    if not spec.is_signed:
        _set_range(second, second.rounded_to.clipped(spec.bound))


def keep_apart(first: ActivationQuantizer, second: ActivationQuantizer) -> None:
    """Put a Clip that cuts nothing into the second, which reads the first: onnxruntime melts two that have none."""
    if not _has_clip(first) and not _has_clip(second):
        _write_clip(second, second.rounded_to)


def _has_clip(quantizer: ActivationQuantizer) -> bool:
    return len(_nodes(quantizer)) > 1


def _nodes(quantizer: ActivationQuantizer) -> list[ir.Node]:
    """From QuantizeLinear to the codes that it is rounded to: what a table adds is left out."""
    dequantize = quantizer.output.producer()
    assert dequantize is not None
    return rounding_nodes(dequantize)


def _quantize_node(quantizer: ActivationQuantizer) -> ir.Node:
    return _nodes(quantizer)[0]


def _dequantize_node(node: ir.Node) -> ir.Node | None:
    """The one DequantizeLinear that the codes of a QuantizeLinear lead to, through its Clip and table."""
    readers = list(node.outputs[0].consumers())
    inner = [reader for reader in readers if may_change_codes(reader)]
    if inner:
        return _dequantize_node(inner[0])
    ends = [reader for reader in readers if dequantizes(reader)]
    return ends[0] if len(ends) == 1 else None


def _set_range(quantizer: ActivationQuantizer, spec: QuantSpec) -> None:
    if spec == quantizer.rounded_to:
        return
    if not _has_clip(quantizer):
        _write_clip(quantizer, spec)
        return
    clip = _nodes(quantizer)[1]
    set_constant_input(clip, 1, np.array(np.uint8(spec.stored_min)))
    set_constant_input(clip, 2, np.array(np.uint8(spec.stored_max)))


def _write_clip(quantizer: ActivationQuantizer, spec: QuantSpec) -> None:
    quantize = _quantize_node(quantizer)
    codes, graph = quantize.outputs[0], quantize.graph
    assert isinstance(graph, ir.Graph)
    users = list(codes.uses())
    clip = clip_of_codes(graph, codes, spec, str(codes.name))
    graph.insert_after(quantize, clip)
    for node, index in users:
        node.replace_input_with(index, clip.outputs[0])
