"""Put float weights and their exponents into the quantizer of a trainable layer."""

from __future__ import annotations

import numpy as np

from qpipe.arith.quantize import IntArray
from qpipe.formats.base import TrainableWeight
from qpipe.ir.quantized.view import Weighted
from qpipe.ir.quantized.weight_layout import to_weight
from qpipe.ir.quantized.weights import FloatArray
from qpipe.nodes import replace_constant


def write_weight(
    layer: Weighted[TrainableWeight], stored: FloatArray, exponents: IntArray, basis: FloatArray | None = None
) -> None:
    """stored: rows `[C, K]` as `rows_on_grid` or `storable` gives them; exponents: `[C]`; basis: of LQ-Net's."""
    weight = layer.weight
    shape = weight.values.shape
    assert shape is not None
    replace_constant(weight.values, to_weight(layer.node, stored, tuple(shape.numpy())))
    if weight.basis is not None and basis is not None:
        replace_constant(weight.basis, basis)
    scales = np.ldexp(np.float32(1), exponents.astype(np.int32))
    replace_constant(weight.scale, scales if weight.spec.per_channel else scales[0])
