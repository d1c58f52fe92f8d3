"""A finalized QDQ graph beside the oracle: what every lowering and runtime gives must equal it."""

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from qpipe.arith.spec import QuantSpec
from qpipe.ir.quantized.oracle import network_integers
from qpipe.ir.quantized.view import is_final, read_view
from qpipe.runtime.cut import lowered_tensors, spec_tensors, with_outputs
from support.quantize import to_integer
from support.run import run

Codes = dict[str, np.ndarray]


def lowered_codes(model: ir.Model, inputs: np.ndarray, *, optimize: bool = True) -> Codes:
    """Every tensor of a lowered graph that says what it equals, in the QDQ graph's layout; int32 as they are."""
    tensors = lowered_tensors(model)
    outputs = run(with_outputs(model, list(tensors)), inputs, optimize=optimize)
    return {name: tensors[name].to_common(array) for name, array in zip(tensors, outputs, strict=True)}


def units(spec: ir.Model) -> Mapping[str, float]:
    """Real units per int32 step of each last layer."""
    scales = {}
    for layer in read_view(spec).layers:
        if layer.quantizer is None and is_final(layer):
            scales[str(layer.result.name)] = float(layer.weight.scales[0] * layer.sources[0].grid.scale)
    return scales


def assert_integers(
    spec: ir.Model, inputs: np.ndarray, *, fused: bool = True, optimize: bool = True, **options: str
) -> Codes:
    """The oracle, the QDQ file on onnxruntime (`fused`: it is exact there) and the integer file agree; the codes."""
    expected = network_integers(spec, inputs)
    if fused:
        for value, array in zip(spec.graph.outputs, run(spec, inputs), strict=True):
            np.testing.assert_array_equal(array, real_output(spec, expected, value))
    found = lowered_codes(to_integer(spec, **options), inputs, optimize=optimize)
    assert found.keys() == expected.keys() == spec_tensors(read_view(spec)).keys()
    scales = units(spec)
    for name, array in found.items():
        known = expected[name]
        np.testing.assert_array_equal(array if name not in scales else array * scales[name], known, err_msg=name)
    return found


def real_output(spec: ir.Model, expected: Codes, value: ir.Value) -> np.ndarray:
    """What the oracle says of a graph output."""
    if str(value.name) in expected:
        return expected[str(value.name)].astype(np.float32)
    quantizer = next(q.quantizer for q in read_view(spec).layers if q.result is value)
    grid: QuantSpec = quantizer.grid
    return ((expected[str(quantizer.codes.name)].astype(np.float64) - grid.zero_point) * grid.scale).astype(np.float32)
