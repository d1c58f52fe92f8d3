"""The exact integers of a finalized QDQ graph, by torch in float64: what every lowering is compared with.

Each layer runs its op's torch semantics on real numbers that lie on power-of-two grids, where float64 has no rounding
error, and is quantized once.
"""

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir
import torch

from qpipe.arith.quantize import quantize
from qpipe.arith.spec import QuantSpec
from qpipe.ir.quantized.qdq import ActivationQuantizer
from qpipe.ir.quantized.view import QuantizedLayer, is_final, read_view
from qpipe.ops import OPS, activation_of
from qpipe.runtime.cut import lowered_tensors, spec_tensors, with_outputs
from support.quantize import to_integer
from support.run import run

Codes = dict[str, np.ndarray]


def exact_codes(model: ir.Model, inputs: np.ndarray) -> Codes:
    """Every quantized tensor's stored codes and every last layer's real result, by name."""
    view = read_view(model)
    real: dict[ir.Value, torch.Tensor] = {}
    found: Codes = {}

    def store(quantizer: ActivationQuantizer, y: torch.Tensor) -> None:
        codes = (quantize(y, quantizer.rounded_to) + quantizer.rounded_to.zero_point).numpy().astype(np.uint8)
        codes = codes if quantizer.table is None else quantizer.table.array()[codes]
        found[str(quantizer.codes.name)] = codes
        real[quantizer.output] = torch.from_numpy(codes).double().sub(quantizer.grid.zero_point) * quantizer.grid.scale

    for quantizer in view.inputs:
        store(quantizer, torch.from_numpy(inputs).double())
    for layer in view.layers:
        y = _run(layer, [real[q.output] for q in layer.sources])
        if layer.quantizer is not None:
            store(layer.quantizer, y)
        else:
            found[str(layer.result.name)], real[layer.result] = y.numpy(), y
    return found


def _run(layer: QuantizedLayer, inputs: list[torch.Tensor]) -> torch.Tensor:
    run = OPS[layer.op_type].torch(layer.node)
    if is_final(layer):
        scale = layer.weight.multiplier * np.exp2(layer.weight.exponent.astype(np.float64))
        axis = 0 if layer.op_type == "Conv" or layer.node.attributes.get_int("transB", 0) else 1
        shape = [-1 if i == axis else 1 for i in range(layer.weight.codes.ndim)]
        bias = torch.from_numpy(layer.weight.bias * scale * layer.sources[0].grid.scale)
        inputs = [*inputs, torch.from_numpy(layer.weight.codes * scale.reshape(shape)), bias]
    y = run(*inputs)
    activation = layer.activation
    return y if activation is None else activation_of(activation).real(y)


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
    expected = exact_codes(spec, inputs)
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
