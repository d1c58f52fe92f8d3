"""Lower a finalized QDQ graph to standard operators on integers: no float between the first integer and the last.

    Q -> DQ -> Conv(DQ(w), DQ(b)) -> Relu -> Q   becomes   Pad, Slice, Concat -> MatMulInteger -> requantization
    last Gemm                                    becomes   MatMulInteger + bias: int32 fixed point

Channels lie last inside. Each op's own part is `lower_integer` in `qpipe/ops/`; the requantization is the definition in
`qpipe.arith.quantize`, written as nodes by `qpipe.arith.symbolic`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from qpipe.data.carried import carried_preprocess
from qpipe.errors import LoweringError
from qpipe.ir.files.metadata import set_json
from qpipe.ir.quantized.parts import all_reads
from qpipe.ir.quantized.qdq import ActivationQuantizer
from qpipe.ir.quantized.view import LastLayer, View, read_final_view
from qpipe.lowering.ends import Builder, add_nodes, dequantize_results, first_grid, look_up
from qpipe.lowering.integer_builder import IntegerBuilder, Layout
from qpipe.lowering.integer_ends import Floats, give_integers, take_pixels
from qpipe.nodes import describe
from qpipe.ops import product_of

CUT_TAIL = "cut_tail"
"""Metadata: the names of the float nodes behind the last layers that an integer interface left out."""


@dataclass(frozen=True, kw_only=True)
class LowerInteger(ir.passes.InPlacePass):
    """Replace the quantized part.

    weights: "int8", or "uint8" with zero point 128. io: "float" keeps inputs and outputs, "integer" takes uint8 pixels
    of `layout`, already resized, cropped and in the network's colour order, and gives int32; what follows the last
    layers in float is cut off, and named in the metadata `qpipe.cut_tail`.
    """

    name: ClassVar[str] = "lower-integer"

    weights: str = "int8"
    io: str = "float"
    layout: Layout = "NCHW"

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Lower every layer; raise LoweringError on a graph that is not finalized."""
        view = read_final_view(model)
        b = IntegerBuilder(model.graph, weights=self.weights)
        if self.io == "integer":
            check_ends(view)
        for quantizer in view.inputs:
            b.start(str(quantizer.source.name))
            if self.io == "integer" and quantizer.source.is_graph_input():
                values, own = pixel_values(model, quantizer)
                take_pixels(model.graph, quantizer, values, b, pixels=self.layout, own=own)
            elif (looked_up := look_up(quantizer, b)) is not None:
                b.define(quantizer, looked_up)
            else:
                value = b.node("QuantizeLinear", [quantizer.source, *first_grid(quantizer, b)])
                b.define_clipped(quantizer, value)
        for layer in view.layers:
            b.start(layer.name)
            if isinstance(layer, LastLayer):
                product_of(layer.node).lower_integer_last(layer, b)
            else:
                layer.op.lower_integer(layer, b)
        give_results(model, view, b, b, self.io, self.layout)
        add_nodes(model, b.nodes)
        return ir.passes.PassResult(model, True)


def give_results(model: ir.Model, view: View, b: Builder, ends: IntegerBuilder, io: str, layout: Layout) -> None:
    """Real numbers for what stays float and for the outputs; these are int32 of an integer interface."""
    if io == "integer":
        set_json(model, CUT_TAIL, give_integers(model, view, ends, layout) or None)
    dequantize_results(view, b, outputs=io == "float")


def check_ends(view: View) -> None:
    """LoweringError where there is not one input, or where what stays float reads it or leads to an output."""
    names = [str(value.name) for value in view.graph.inputs]
    if len(names) != 1:
        raise LoweringError(f"io: 'integer', but the inputs are {', '.join(names)}; expected one image, or io 'float'")
    results = set(view.results)
    for layer in view.lookups:
        if any(value.is_graph_input() and value.dtype is ir.DataType.FLOAT for value in all_reads(layer)):
            raise LoweringError(f"{describe(layer.node)}: makes tokens of the float input, expected io 'float'")
    for layer in view.islands:
        if any(value.is_graph_input() for value in all_reads(layer)):
            raise LoweringError(f"{describe(layer.node)}: reads the input in float, expected io 'float'")
        if any(value in results for node in layer.nodes for value in node.outputs):
            raise LoweringError(f"{describe(layer.node)}: an output is made of its floats, expected io 'float'")


def pixel_values(model: ir.Model, quantizer: ActivationQuantizer) -> tuple[Floats, Layout]:
    """What the model's preprocessing makes of each pixel, float32 `[C, 256]`, and the layout of its float input."""
    preprocess = carried_preprocess(model)
    if preprocess is None:
        raise LoweringError("metadata 'qpipe.preprocess' is missing, expected it for integer inputs; calibrate again")
    shape = quantizer.source.shape
    axis = 1 if preprocess.layout == "NCHW" else -1
    channels = shape[axis] if shape is not None and len(shape) == 4 else 1
    if not isinstance(channels, int):
        raise LoweringError(f"input '{quantizer.source.name}' has an unknown number of channels")
    return np.stack([preprocess.table(channel) for channel in range(channels)]), preprocess.layout
