"""AveragePool, GlobalAveragePool and the spatial ReduceMean: the exact rational mean, rounded once.

onnxruntime's fused pooling multiplies by a rounded reciprocal of the count, which errs at exact ties for some counts
(the first are 7 and 13); `qpipe.arith.certificate.reciprocal_is_exact` says for which counts it can be used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from qpipe.errors import LoweringError
from qpipe.nodes import describe, int_attribute, window
from qpipe.ops.base import Unweighted
from qpipe.ops.conv import symmetric_pads, torch_pads

if TYPE_CHECKING:
    import torch

    from qpipe.ir.quantized.view import RequantizedLayer
    from qpipe.lowering.integer_builder import IntegerBuilder
    from qpipe.lowering.qoperator_builder import QOperatorBuilder
    from qpipe.ops.base import TorchFunction


class AveragePool(Unweighted):
    """A window's sum divided by the count of each position."""

    op_types = ("AveragePool", "GlobalAveragePool", "ReduceMean")

    def torch(self, node: ir.Node) -> TorchFunction:
        """`x [N, C, H, W] -> [N, C, H', W']`, or `[N, C, 1, 1]`."""
        if node.op_type != "AveragePool":
            return _global_mean
        return _windowed(node)

    def lower_qoperator(self, layer: RequantizedLayer, b: QOperatorBuilder) -> None:
        """QLinearAveragePool, QLinearGlobalAveragePool; ReduceMean stays a float island, whose division is exact."""
        inputs, output = b.quantized_inputs(layer), b.grid(layer.quantizer.before)
        node, name, float32 = layer.node, layer.name, ir.DataType.FLOAT
        if layer.op_type == "ReduceMean":
            real = b.emit("DequantizeLinear", inputs, name=f"{name}_dequantize", dtype=float32)
            mean = b.emit("ReduceMean", [real, node.inputs[1]], name=name, attributes=node.attributes, dtype=float32)
            value = b.emit("QuantizeLinear", [mean, *output], name=f"{name}_quantize")
        else:
            attributes, inputs = {**node.attributes, "channels_last": 0}, [*inputs, *output]
            value = b.emit(f"QLinear{node.op_type}", inputs, name=name, attributes=attributes, domain="com.microsoft")
        b.finish(layer, value)

    def lower_integer(self, layer: RequantizedLayer, b: IntegerBuilder) -> None:
        """Sums of codes, divided by the count: a shift where it is a power of two."""
        from qpipe.lowering.integer_pool import average

        average(layer, b)


def _global_mean(x: torch.Tensor) -> torch.Tensor:
    spatial = tuple(range(2, x.ndim))
    return x.sum(spatial, keepdim=True) / float(np.prod(x.shape[2:]))


def _windowed(node: ir.Node) -> TorchFunction:
    from torch.nn import functional as F

    shape = window(node)
    if len(shape.kernel) != 2 or any(d != 1 for d in shape.dilations):
        raise LoweringError(f"{describe(node)}: expected 2 spatial dimensions without dilation")
    include = bool(int_attribute(node, "count_include_pad", 0))
    ceil_mode = bool(int_attribute(node, "ceil_mode", 0))
    pads = symmetric_pads(shape)

    def run(x: torch.Tensor) -> torch.Tensor:
        if pads is not None and all(2 * p <= k for p, k in zip(pads, shape.kernel, strict=True)):
            return F.avg_pool2d(x, shape.kernel, shape.strides, pads, ceil_mode, include)
        needed = shape.padded(x.shape[2:], ceil_mode=ceil_mode)
        beyond = [a - b for a, b in zip(needed, shape.pads, strict=True)]
        counted = F.pad(x.new_ones(1, 1, *x.shape[2:]), torch_pads(shape.pads), value=1.0 if include else 0.0)
        sums, counts = (
            F.avg_pool2d(F.pad(y, torch_pads(tuple(pads))), shape.kernel, shape.strides, divisor_override=1)
            for y, pads in ((x, needed), (counted, beyond))
        )
        return sums / counts

    return run
