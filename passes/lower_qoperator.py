"""Lower a finalized QDQ graph to onnxruntime's integer operators: QLinearConv, QLinearAdd, QGemm and their kin.

    Q -> DQ -> Conv(DQ(w), DQ(b)) -> Relu -> Q     becomes     QuantizeLinear -> QLinearConv
    last Gemm                                      becomes     MatMulInteger + bias (int32) -> DequantizeLinear

Each op's own part is `lower_qoperator` in `qpipe/ops/`. All tensors between are uint8; a range narrower than uint8 is a
Clip of the integers. What onnxruntime computes with these operators is exactly the integer arithmetic, because the
certificate's conditions hold (see `qpipe.arith.certificate`), and the gate checks it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from qpipe.errors import LoweringError
from qpipe.ops.boundary import add_nodes, dequantize_results
from qpipe.ir.qdq import ActivationQuantizer
from qpipe.ir.view import View, read_view
from qpipe.ops import OPS
from qpipe.ops.qoperator_builder import MICROSOFT, QOperatorBuilder


@dataclass(frozen=True, kw_only=True)
class LowerQOperator(ir.passes.InPlacePass):
    """Replace the quantized part.

    weights: "int8", or "uint8" with zero point 128. cpu: "portable" keeps int8 weights exact without VNNI. io: "float" keeps inputs and outputs, "integer" takes uint8 pixels
    of `layout` and gives int32.
    """

    name: ClassVar[str] = "lower-qoperator"

    weights: str = "int8"
    cpu: str = "portable"
    io: str = "float"
    layout: str = "NCHW"

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Lower every layer; raise LoweringError on a graph that is not finalized."""
        view = read_view(model)
        if not view.is_final:
            raise LoweringError("the model is not finalized; run finalize first")
        b = QOperatorBuilder(model.graph, weights=self.weights, portable=self.cpu != "vnni")
        for quantizer in view.inputs:
            _lower_input(b, quantizer)
        for layer in view.layers:
            OPS[layer.op_type].lower_qoperator(layer, b)
        dequantize_results(model, view, b)
        add_nodes(model, b.nodes)
        model.opset_imports[MICROSOFT] = 1
        return ir.passes.PassResult(model, True)


def _lower_input(b: QOperatorBuilder, quantizer: ActivationQuantizer) -> None:
    value = b.emit("QuantizeLinear", [quantizer.source, *b.grid(quantizer.spec)], name=f"{quantizer.source.name}_quantize")
    b.define_input(quantizer, value)
