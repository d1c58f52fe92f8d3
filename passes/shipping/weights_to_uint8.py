"""Store a finalized graph's int8 weights as uint8 with zero point 128: `w = code - 128`.

x86 without VNNI adds two uint8 x int8 products in a saturating int16; for uint8 x uint8 onnxruntime has a kernel that
doesn't. Weights of 4 bits and fewer can't saturate and stay packed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from qpipe.ir.graph.ending import remove_unused
from qpipe.ir.quantized.view import is_final, read_final_view
from qpipe.ir.quantized.weight_codes import stored_weight
from qpipe.nodes import initializer, require_input


@dataclass(frozen=True, kw_only=True)
class WeightsToUint8(ir.passes.InPlacePass):
    """Every int8 weight's initializer and zero point."""

    name: ClassVar[str] = "weights-to-uint8"

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Replace them; raise LoweringError on a graph that is not finalized."""
        view = read_final_view(model)
        modified = False
        for layer in view.layers:
            if not is_final(layer):
                continue
            dequantize = require_input(layer.node, 1, "weight").producer()
            assert dequantize is not None
            codes, scale = dequantize.inputs[:2]
            # A packed weight comes from a Cast.
            if codes is None or scale is None or codes.producer() is not None or codes.dtype == ir.DataType.UINT8:
                continue
            tensor, zero_point = stored_weight(layer.weight.codes, layer.weight.bits, "uint8")
            shape = () if scale.shape is None else scale.shape.numpy()
            zeros = initializer(model.graph, f"{layer.name}_zero_point_uint8", np.full(shape, zero_point))
            dequantize.resize_inputs(3)
            dequantize.replace_input_with(0, initializer(model.graph, f"{layer.name}_weight_uint8", tensor))
            dequantize.replace_input_with(2, zeros)
            modified = True
        remove_unused(model)
        return ir.passes.PassResult(model, modified)
