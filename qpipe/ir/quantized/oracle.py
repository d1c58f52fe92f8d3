"""The oracle: every integer of a final QDQ graph, by numpy.

It is the specification. Each op answers for itself (`exact` in its file), from the equations of `qpipe.arith` and from
ONNX's own text; no runtime, and no kernel of one, takes part.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from qpipe.arith.quantize import quantize
from qpipe.ir.quantized.qdq import ActivationQuantizer
from qpipe.ir.quantized.view import QuantizedLayer, RequantizedLayer, read_final_view

Array = npt.NDArray[Any]


def network_integers(model: ir.Model, *inputs: Array) -> dict[str, Array]:
    """All integers of a finalized model, by the names of its tensors.

    inputs: float32, one for each of the graph's quantized inputs, in their order. Of a quantizer the result has its
    codes (zero point included), of a last layer its real numbers (float64, exact); what a float tail makes of these is
    no part of it. LoweringError where the model is not finalized.
    """
    view = read_final_view(model)
    codes = {q.codes: codes_of(q, x) for q, x in zip(view.inputs, inputs, strict=True)}
    found = {str(value.name): array for value, array in codes.items()}
    for layer in view.layers:
        result = layer_result(layer, [codes[q.codes] for q in layer.sources])
        found[result_name(layer)] = result
        if layer.quantizer is not None:
            codes[layer.quantizer.codes] = result
    return found


def codes_of(quantizer: ActivationQuantizer, x: Array) -> Array:
    """What float32 numbers of its source become: uint8, zero point included."""
    return _stored(quantizer, quantize(quantizer.in_units(x).astype(np.float64), quantizer.rounded_to))


def result_name(layer: QuantizedLayer) -> str:
    """What the result of a layer is called: its quantizer's codes, or a last layer's float output."""
    return str((layer.result if layer.quantizer is None else layer.quantizer.codes).name)


def layer_result(layer: QuantizedLayer, codes: Sequence[Array]) -> Array:
    """What one layer gives for the codes of its inputs: codes, or a last layer's real numbers (float64)."""
    integers = [x.astype(np.int64) - q.grid.zero_point for x, q in zip(codes, layer.sources, strict=True)]
    exact = layer.op.exact(layer, *integers)
    if isinstance(layer, RequantizedLayer):
        return _stored(layer.quantizer, exact.rounded(layer.clipped_to))
    return exact.real()


def _stored(quantizer: ActivationQuantizer, q: Array) -> Array:
    """Stored codes, zero point included, of integers on the grid that a quantizer rounds to, behind its table."""
    codes = (q + quantizer.rounded_to.zero_point).astype(quantizer.rounded_to.dtype)
    return codes if quantizer.table is None else quantizer.table.array()[codes]
