"""Put a quantizer between a layer and its float weights, which stay in the file: int8 codes along output channels.

Weights of 4 bits and fewer that are final are packed (see `qpipe.ir.quantized.weight_codes`).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from qpipe.arith.binary import BinarySpec
from qpipe.arith.lq import LQSpec
from qpipe.arith.weights import WeightSpec
from qpipe.formats.base import WeightFormat
from qpipe.formats.codes import AnyWeightSpec
from qpipe.ir.quantized.quantizer_functions import LQ, SIGN, call_function
from qpipe.ir.quantized.weight_layout import output_axis
from qpipe.nodes import initializer, name_value


def insert_weight_quantizer(
    model: ir.Model,
    node: ir.Node,
    stored: npt.NDArray[np.float32],
    exponents: npt.NDArray[np.int64],
    spec: AnyWeightSpec,
    basis: npt.NDArray[np.float32] | None = None,
) -> None:
    """Replace a node's weight by float values behind QuantizeLinear, Clip to the narrow range and DequantizeLinear.

    A quantizer that is not affine stands there as a function instead (see `quantizer_functions`). basis: of LQ-Net's,
    `[C, K]`.
    """
    graph = model.graph
    base = str(node.name)
    weight = initializer(graph, f"{base}_weight", stored)
    scales = np.ldexp(np.float32(1), exponents.astype(np.int32))
    scale = initializer(graph, f"{base}_weight_scale", scales if spec.per_channel else scales[0])
    zero_point = initializer(
        graph, f"{base}_weight_zero_point", np.zeros(scale.shape.numpy() if scale.shape else (), np.int8)
    )
    axis = {"axis": output_axis(node)} if spec.per_channel else {}
    if isinstance(spec, WeightFormat):
        nodes = spec.code_nodes(model, base, weight, scale, zero_point, axis=output_axis(node), basis=basis)
    elif isinstance(spec, LQSpec):
        assert basis is not None
        shape = [len(exponents) if i == output_axis(node) else 1 for i in range(stored.ndim)]
        inputs = [weight, initializer(graph, f"{base}_weight_basis", basis), scale]
        nodes = [call_function(model, LQ, inputs, f"{base}_weight_lq", bits=spec.bits, shape=shape)]
    else:
        nodes = _weight_codes(model, base, weight, scale, zero_point, axis, spec)
    dequantize = ir.node(
        "DequantizeLinear", [nodes[-1].outputs[0], scale, zero_point], axis, name=f"{base}_weight_dequantize"
    )
    for new, name, dtype in zip(
        (*nodes, dequantize), (*("codes", "clipped")[: len(nodes)], "dequantized"),
        (*[ir.DataType.INT8] * len(nodes), ir.DataType.FLOAT), strict=True,
    ):  # fmt: skip
        name_value(new.outputs[0], f"{base}_weight_{name}", ir.TensorType(dtype), ir.Shape(stored.shape))
    graph.insert_before(node, [*nodes, dequantize])
    old = node.inputs[1]
    node.replace_input_with(1, dequantize.outputs[0])
    if old is not None and not old.uses() and old.is_initializer():
        del graph.initializers[str(old.name)]


def _weight_codes(
    model: ir.Model, base: str, weight: ir.Value, scale: ir.Value, zero_point: ir.Value, axis: dict[str, int],
    spec: WeightSpec | BinarySpec,
) -> list[ir.Node]:  # fmt: skip
    """The nodes from float weights to int8 codes."""
    if isinstance(spec, BinarySpec):
        return [call_function(model, SIGN, [weight], f"{base}_weight_sign")]
    quantize = ir.node("QuantizeLinear", [weight, scale, zero_point], axis, name=f"{base}_weight_quantize")
    low = initializer(model.graph, f"{base}_weight_min", np.int8(-spec.qmax))
    high = initializer(model.graph, f"{base}_weight_max", np.int8(spec.qmax))
    return [quantize, ir.node("Clip", [quantize.outputs[0], low, high], name=f"{base}_weight_clip")]
