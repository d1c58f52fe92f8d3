"""Take an Add of one constant per output channel into the Conv or MatMul before it, as its bias.

Conv(x, w, b) + c [C, 1, 1] = Conv(x, w, b + c); MatMul(x [M, K], w [K, N]) + c [N] = Gemm(x, w, c).
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from qpipe.ir.graph.rewrite import added_constant, rewrite
from qpipe.nodes import AnyArray, constant_input, initializer, input_value, rank


@dataclass(frozen=True, kw_only=True)
class FuseBiasAdd(ir.passes.InPlacePass):
    """Conv + Add becomes Conv, MatMul + Add becomes Gemm, where the Add alone reads the product.

    The weight must be constant, so a Q/DQ pair is never crossed.
    """

    name: ClassVar[str] = "fuse-bias-add"

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Fuse every matching pair."""
        return rewrite(model, {"Add"}, _try_fuse)


def _try_fuse(graph: ir.Graph, add: ir.Node) -> bool:
    match = added_constant(add)
    if match is None or match[0].domain != "" or match[0].graph is not graph:
        return False
    layer, offset = match
    fuse = {"Conv": _conv_with_bias, "MatMul": _gemm}.get(layer.op_type)
    fused = None if fuse is None else fuse(graph, layer, offset)
    if fused is None:
        return False
    ir.convenience.replace_nodes_and_values(graph, add, [layer, add], [fused], add.outputs, fused.outputs)
    return True


def _conv_with_bias(graph: ir.Graph, conv: ir.Node, offset: AnyArray) -> ir.Node | None:
    weight = constant_input(conv, 1)
    if weight is None:
        return None
    channels, spatial = weight.shape[0], weight.ndim - 2
    # Counted from the right: spatial dimensions of one, then the channels; a batch of one may stand before them.
    shape = (1,) * (2 + spatial - offset.ndim) + offset.shape
    if len(shape) != 2 + spatial or shape[0] != 1 or shape[1] not in (1, channels) or set(shape[2:]) != {1}:
        return None
    bias = np.broadcast_to(offset.reshape(-1), (channels,))
    if input_value(conv, 2) is not None:
        old_bias = constant_input(conv, 2)
        if old_bias is None:
            return None
        bias = old_bias + bias
    inputs = [*conv.inputs[:2], _bias_initializer(graph, conv, bias)]
    return ir.node("Conv", inputs, dict(conv.attributes), name=conv.name)


def _gemm(graph: ir.Graph, matmul: ir.Node, offset: AnyArray) -> ir.Node | None:
    weight = constant_input(matmul, 1)
    if weight is None or weight.ndim != 2 or rank(matmul.inputs[0]) != 2:
        return None
    features = weight.shape[1]
    if offset.ndim > 2 or offset.size not in (1, features) or (offset.ndim and offset.shape[-1] != offset.size):
        return None
    bias = np.broadcast_to(offset.reshape(-1), (features,))
    return ir.node("Gemm", [*matmul.inputs, _bias_initializer(graph, matmul, bias)], name=matmul.name)


def _bias_initializer(graph: ir.Graph, layer: ir.Node, bias: AnyArray) -> ir.Value:
    """A new initializer, because the old ones may have other readers; dead-code removal takes those that have none."""
    return initializer(graph, f"{layer.name or layer.outputs[0].name}_bias", np.ascontiguousarray(bias))
