"""Run weights whose pairs are not safe as a CPU with VNNI does, on every CPU (see "Pairs" in docs/numbers.md).

x86 without VNNI adds two uint8 x int8 products in a saturating int16, so a file that waives the pair condition gives
other integers there. To compare such a file with another, both must run on kernels that don't saturate.
"""

from typing import Final

import numpy as np
import onnx_ir as ir
import onnxruntime as ort

from qpipe.ir.quantized.weight_codes import stored_weight
from qpipe.nodes import constant_input, initializer
from qpipe.runtime.cpu import this_cpu
from qpipe.runtime.session import open_session

# int8 weights beyond ±64 become uint8 with zero point 128 when the session starts; without effect where it isn't x86.
_PRECISE: Final = {"session.x64quantprecision": "1"}
_WEIGHT, _ZERO_POINT = 3, 5  # inputs of a QLinearMatMul


def open_exact(model: ir.Model, *, threads: int | None = None) -> ort.InferenceSession:
    """Open `model` on kernels that don't saturate: where the CPU has VNNI the usual ones, else slower ones."""
    if this_cpu().has_vnni:
        return open_session(model, threads=threads)
    copy = model.clone()
    # What onnxruntime's option (1.31) needs: that no two operators share a constant of int8, and that none is a
    # QLinearMatMul, which it overlooks since opset 21.
    _unshare(copy.graph)
    for node in copy.graph:
        if node.op_type == "QLinearMatMul":
            _to_uint8(copy.graph, node)
    return open_session(copy, threads=threads, config=_PRECISE)


def _unshare(graph: ir.Graph) -> None:
    for value in list(graph.initializers.values()):
        if value.dtype == ir.DataType.INT8 and value.const_value is not None:
            for node, index in list(value.uses())[1:]:
                node.replace_input_with(index, initializer(graph, str(value.name), value.const_value.numpy()))


def _to_uint8(graph: ir.Graph, node: ir.Node) -> None:
    """Constant int8 weights of a QLinearMatMul; packed ones, behind a Cast, can't saturate."""
    weight, zero_point = constant_input(node, _WEIGHT), constant_input(node, _ZERO_POINT)
    if weight is None or zero_point is None or weight.dtype != np.int8:
        return
    tensor, zero = stored_weight(weight.astype(np.int8), 8, "uint8")
    node.replace_input_with(_WEIGHT, initializer(graph, f"{node.name}_weight_uint8", tensor))
    zeros = np.full(zero_point.shape, zero)
    node.replace_input_with(_ZERO_POINT, initializer(graph, f"{node.name}_zero_point_uint8", zeros))
