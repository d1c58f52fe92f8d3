"""Put float weights on power-of-two exponents behind their quantizer: int8 codes along output channels.

The float values stay in the file, so that it can be trained again. Weights of 4 bits and fewer that are final are
packed (see `qpipe.ir.quantized.weight_codes`).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from qpipe.arith.namespace import AnyArray, FloatArray, IntArray
from qpipe.arith.spec import QuantSpec
from qpipe.formats.base import Around, TrainableWeight, WeightFormat, WeightOptions, WeightPlace
from qpipe.ir.graph.affine import read_affine
from qpipe.ir.graph.layers import Layer
from qpipe.ir.quantized.view import Weighted
from qpipe.nodes import initializer, name_value, replace_constant, require_constant
from qpipe.ops.weight_layout import output_axis, to_rows, to_weight


def insert_first_weight(
    model: ir.Model,
    layer: Layer,
    chosen: type[WeightFormat],
    bits: int,
    options: WeightOptions,
    *,
    source: QuantSpec,
    output: QuantSpec | None,
) -> None:
    """Give a float layer weights of a format, on the first exponents of the weights as they are.

    source, output: the grids that it reads and writes, None for a last layer.
    """
    node = layer.node
    weight = require_constant(node, 1, "weight").astype(np.float32)
    rows = to_rows(node, weight)
    affine = read_affine(layer, len(rows))
    spec, basis = chosen.first(node, rows, bits, source, options)
    stored, exponents = rows_on_grid(rows, spec, Around(affine.k, affine.beta, source, output), basis)
    stored = np.ascontiguousarray(to_weight(node, stored, weight.shape))
    _insert_quantizer(model, node, stored, exponents, spec, basis)


def rows_on_grid(
    rows: AnyArray, spec: WeightFormat, around: Around[AnyArray], basis: FloatArray | None = None
) -> tuple[FloatArray, IntArray]:
    """Float weights `[C, K]` as the file stores them, and exponents `[C]`."""
    _, exponent = spec.quantize(rows, around, basis=basis)
    return spec.storable(rows, exponent), exponent.astype(np.int64)


def write_weight(
    layer: Weighted[TrainableWeight], stored: FloatArray, exponents: IntArray, basis: FloatArray | None = None
) -> None:
    """Replace what a trainable layer has; stored: rows `[C, K]` as the format's `storable` gives them."""
    weight = layer.weight
    shape = weight.values.shape
    assert shape is not None
    replace_constant(weight.values, to_weight(layer.node, stored, tuple(shape.numpy())))
    if weight.basis is not None and basis is not None:
        replace_constant(weight.basis, basis)
    replace_constant(weight.scale, _scale(exponents, weight.format))


def _insert_quantizer(
    model: ir.Model,
    node: ir.Node,
    stored: FloatArray,
    exponents: IntArray,
    spec: WeightFormat,
    basis: FloatArray | None,
) -> None:
    """Replace a node's weight by float values behind the format's nodes and DequantizeLinear."""
    graph = model.graph
    base = str(node.name)
    weight = initializer(graph, f"{base}_weight", stored)
    scales = _scale(exponents, spec)
    scale = initializer(graph, f"{base}_weight_scale", scales)
    zero_point = initializer(graph, f"{base}_weight_zero_point", np.zeros(scales.shape, np.int8))
    axis = output_axis(node)
    nodes = spec.code_nodes(WeightPlace(model, base, weight, scale, zero_point, axis, basis))
    attributes = {"axis": axis} if spec.per_channel else {}
    dequantize = ir.node(
        "DequantizeLinear", [nodes[-1].outputs[0], scale, zero_point], attributes, name=f"{base}_weight_dequantize"
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


def _scale(exponents: IntArray, spec: WeightFormat) -> npt.NDArray[np.float32]:
    """As the file has it: for each channel, or one in all."""
    scales = np.ldexp(np.float32(1), exponents.astype(np.int32))
    return np.asarray(scales if spec.per_channel else scales[0], np.float32)
