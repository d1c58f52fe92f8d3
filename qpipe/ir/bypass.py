"""Take quantizers out of a QDQ graph that what they were written for has left.

The form stays the one that `qpipe.ir.view` reads and onnxruntime computes exactly: one quantizer behind each layer, and
a Clip of the integers wherever one quantizer reads another.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from qpipe.arith.spec import QuantSpec
from qpipe.ir.qdq import ActivationQuantizer, initializer, read_activation_quantizer, set_constant_input


def quantizers_reading(value: ir.Value) -> list[ActivationQuantizer] | None:
    """The quantizers that read a value; None where anything else reads it, or nothing."""
    found: list[ActivationQuantizer] = []
    for node, index in value.uses():
        codes = node.outputs[0] if node.op_type == "QuantizeLinear" and index == 0 else None
        clips = [] if codes is None else [user for user in codes.consumers() if user.op_type == "Clip"]
        codes = clips[0].outputs[0] if clips else codes
        ends = [] if codes is None else [user for user in codes.consumers() if user.op_type == "DequantizeLinear"]
        quantizer = read_activation_quantizer(ends[0]) if len(ends) == 1 else None
        if quantizer is None:
            return None
        found.append(quantizer)
    return found if found and not value.is_graph_output() else None


def bypass(first: ActivationQuantizer, second: ActivationQuantizer) -> None:
    """Let the second, which reads the first, read the first's source, without losing its bound."""
    _quantize_node(second).replace_input_with(0, first.source)
    inherit_bound(first, second)


def inherit_bound(first: ActivationQuantizer, second: ActivationQuantizer) -> None:
    """Cut the second's range as the first's was: at 0, and at a ReLU6's bound, which is a top that is not all ones."""
    spec = first.spec
    if not spec.is_signed:
        is_bound = spec.qmax & (spec.qmax + 1) != 0
        _set_range(second, second.spec.clipped(spec.qmax * spec.scale if is_bound else math.inf))


def keep_apart(first: ActivationQuantizer, second: ActivationQuantizer) -> None:
    """Put a Clip that cuts nothing into the second, which reads the first: onnxruntime melts two that have none."""
    if not _has_clip(first) and not _has_clip(second):
        _write_clip(second, second.spec)


def merge(quantizers: Sequence[ActivationQuantizer]) -> None:
    """Let the first of several equal quantizers of one value serve the readers of all."""
    for other in quantizers[1:]:
        other.output.replace_all_uses_with(quantizers[0].output)


def _has_clip(quantizer: ActivationQuantizer) -> bool:
    producer = quantizer.codes.producer()
    return producer is not None and producer.op_type == "Clip"


def _quantize_node(quantizer: ActivationQuantizer) -> ir.Node:
    node = quantizer.codes.producer()
    if node is not None and node.op_type == "Clip":
        assert node.inputs[0] is not None
        node = node.inputs[0].producer()
    assert node is not None
    return node


def _set_range(quantizer: ActivationQuantizer, spec: QuantSpec) -> None:
    if spec == quantizer.spec:
        return
    clip = quantizer.codes.producer()
    if clip is None or clip.op_type != "Clip":
        _write_clip(quantizer, spec)
        return
    set_constant_input(clip, 1, np.array(np.uint8(spec.stored_min)))
    set_constant_input(clip, 2, np.array(np.uint8(spec.stored_max)))


def _write_clip(quantizer: ActivationQuantizer, spec: QuantSpec) -> None:
    codes, name = quantizer.codes, quantizer.codes.name
    quantize = _quantize_node(quantizer)
    graph = quantize.graph
    assert isinstance(graph, ir.Graph)
    low = initializer(graph, f"{name}_min", np.uint8(spec.stored_min))
    high = initializer(graph, f"{name}_max", np.uint8(spec.stored_max))
    users = list(codes.uses())
    clip = ir.node("Clip", [codes, low, high], name=f"{name}_clip")
    clip.outputs[0].name, clip.outputs[0].type = f"{name}_clipped", codes.type
    clip.outputs[0].shape = None if codes.shape is None else codes.shape.copy()
    graph.insert_after(quantize, clip)
    for node, index in users:
        node.replace_input_with(index, clip.outputs[0])
