"""Write a bound behind the last weights as a maximum and a minimum: onnxruntime leaves sums that a Clip reads in float.

    Clip(y, a, b)  =  Min(Max(y, a), b)        bit for bit, of what is a number

Where a Clip alone reads a Gemm's result, onnxruntime (1.31) looks for a QuantizeLinear behind it, and, where there is
none and the Clip gives no output either, the Gemm has no integer kernel. It is how policies bound the logarithm of a
deviation before its exponential.
"""

from __future__ import annotations

from collections.abc import Iterable

import onnx_ir as ir

from qpipe.ir.graph.rewrite import bypass, only_reader
from qpipe.ir.quantized.view import LastLayer, QuantizedLayer
from qpipe.nodes import STANDARD_DOMAINS, input_value, name_value
from qpipe.ops import product_of


def set_bounds_apart(graph: ir.Graph, layers: Iterable[QuantizedLayer]) -> bool:
    """Rewrite every Clip that alone reads one of these layers' float sums; whether there was any."""
    changed = False
    for layer in layers:
        if isinstance(layer, LastLayer) and product_of(layer.node).fuses_without_quantizer:
            reader = only_reader(layer.node.outputs[0])
            if reader is not None and reader.op_type == "Clip" and reader.domain in STANDARD_DOMAINS:
                changed |= _rewrite(graph, reader)
    return changed


def _rewrite(graph: ir.Graph, bound: ir.Node) -> bool:
    result = bound.outputs[0]
    if result.is_graph_output():
        return False
    value, new = bound.inputs[0], list[ir.Node]()
    for index, op_type in ((1, "Max"), (2, "Min")):
        if (limit := input_value(bound, index)) is not None:
            new.append(ir.node(op_type, [value, limit], name=f"{bound.name}_{op_type}"))
            value = new[-1].outputs[0]
            name_value(value, f"{result.name}_{op_type}", ir.TensorType(ir.DataType.FLOAT), result.shape)
    if not new:
        assert value is not None
        bypass(bound, value)
        return True
    ir.convenience.replace_nodes_and_values(graph, bound, [bound], new, [result], [new[-1].outputs[0]])
    return True
