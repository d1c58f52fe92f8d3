"""Lower a finalized QDQ graph to onnxruntime's integer operators: QLinearConv, QLinearAdd, QGemm and their kin.

    Q -> DQ -> Conv(DQ(w), DQ(b)) -> Relu -> Q     becomes     QuantizeLinear -> QLinearConv
    last Gemm                                      becomes     MatMulInteger + bias (int32) -> DequantizeLinear

Before a float tail the last step is a Cast and a Mul (see `qpipe.lowering.ends`). Each op's own part is
`lower_qoperator` in `qpipe/ops/`. All tensors between are uint8; a range narrower than uint8 is a Clip of the integers.
What onnxruntime computes with these operators is exactly the integer arithmetic, because the certificate's conditions
hold (see `qpipe.arith.certificate`), and the gate checks it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from passes.shipping.lower_integer import check_ends, give_results, pixel_values
from qpipe.ir.quantized.view import LastLayer, read_final_view
from qpipe.lowering.ends import add_nodes, first_grid, look_up
from qpipe.lowering.integer_builder import IntegerBuilder, Layout
from qpipe.lowering.integer_ends import take_pixels
from qpipe.lowering.qoperator_builder import QOperatorBuilder
from qpipe.nodes import MICROSOFT
from qpipe.ops import product_of


@dataclass(frozen=True, kw_only=True)
class LowerQOperator(ir.passes.InPlacePass):
    """Replace the quantized part.

    weights: "int8", or "uint8" with zero point 128. cpu: "portable" keeps int8 weights exact without VNNI. io: "float"
    keeps inputs and outputs, "integer" takes uint8 pixels of `layout` and gives int32 (see LowerInteger).
    """

    name: ClassVar[str] = "lower-qoperator"

    weights: str = "int8"
    cpu: str = "portable"
    io: str = "float"
    layout: Layout = "NCHW"

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Lower every layer; raise LoweringError on a graph that is not finalized."""
        view = read_final_view(model)
        b = QOperatorBuilder(model.graph, weights=self.weights, portable=self.cpu != "vnni")
        ends = _Ends(model.graph, b)
        if self.io == "integer":
            check_ends(view)
        for quantizer in view.inputs:
            if self.io == "integer" and quantizer.source.is_graph_input():
                ends.start(str(quantizer.source.name))
                values, own = pixel_values(model, quantizer)
                take_pixels(model.graph, quantizer, values, ends, pixels=self.layout, own=own)
                b.adopt_input(quantizer, ends.codes(quantizer))
            elif (looked_up := look_up(quantizer, b)) is not None:
                b.define(quantizer, looked_up)
            else:
                inputs = [quantizer.source, *first_grid(quantizer, b)]
                b.define_input(quantizer, b.emit("QuantizeLinear", inputs, name=f"{quantizer.source.name}_quantize"))
        for layer in view.layers:
            if isinstance(layer, LastLayer):
                product_of(layer.node).lower_qoperator_last(layer, b)
            else:
                layer.op.lower_qoperator(layer, b)
        give_results(model, view, b, ends, self.io, self.layout)
        add_nodes(model, [*ends.nodes, *b.nodes])
        model.opset_imports[MICROSOFT] = 1
        return ir.passes.PassResult(model, True)


class _Ends(IntegerBuilder):
    """The two ends of a graph with an integer interface, in standard operators; what is between is `inner`'s."""

    def __init__(self, graph: ir.Graph, inner: QOperatorBuilder) -> None:
        super().__init__(graph)
        self.inner = inner

    def result(self, value: ir.Value) -> ir.Value:
        """The integers of a dequantized value, or a last layer's int32."""
        return self.inner.result(value)
