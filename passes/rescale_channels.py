"""Rescale output channels so that their weights fill their grid, pair-safe, and the multiplier is exact.

With r per output channel (the format's `filling_ratio`), the float network stays the same function:

    w' = r w,   mean' = r mean,   var' = r**2 (var + eps) - eps      so      gamma / sqrt(var' + eps) = k / r

k / r is an 8-bit integer times a power of two, so nothing is lost when it becomes one; and the weights use all of their
codes. Binary weights have no codes to fill: r brings the mean magnitude of each channel to the nominal scale, so that
the signs on that scale are the magnitude-aware weights that they stand for. The idea that neighbouring linear maps may
be rescaled for quantization is that of Nagel et al. 2019 (cross-layer equalization), here between a convolution and its
own batch normalization.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from qpipe.ir.graph.affine import read_affine
from qpipe.ir.quantized.final_weights import float_rows
from qpipe.ir.quantized.view import QuantizedLayer, is_trainable, read_view
from qpipe.ir.quantized.write_weight import rows_on_grid, write_weight
from qpipe.nodes import float_attribute, input_value, require_constant, set_constant_input


@dataclass(frozen=True, kw_only=True)
class RescaleChannels(ir.passes.InPlacePass):
    """Rescale every trainable layer with weights per channel that a BatchNormalization follows.

    keep: names of layers whose weights stay as they are.
    """

    name: ClassVar[str] = "rescale-channels"

    keep: tuple[str, ...] = ()

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rescale; weights and statistics are replaced, exponents computed anew."""
        modified = False
        for layer in read_view(model).layers:
            if layer.name not in self.keep:
                modified |= _try_rescale(layer)
        return ir.passes.PassResult(model, modified)


def _try_rescale(layer: QuantizedLayer) -> bool:
    batch_norm = layer.batch_norm
    if not is_trainable(layer) or batch_norm is None or layer.quantizer is None:
        return False
    weight = layer.weight
    rows = float_rows(layer)
    affine = read_affine(layer, len(rows))
    source, output = layer.sources[0].grid, layer.quantizer.rounded_to
    ratio = weight.format.filling_ratio(rows, affine.k, weight.exponents, source, output)
    if ratio is None:
        return False
    epsilon = float_attribute(batch_norm, "epsilon", 1e-5)
    mean, variance = (require_constant(batch_norm, i, "statistics").astype(np.float64) for i in (3, 4))
    rescaled = ratio**2 * (variance + epsilon) - epsilon
    # A channel without variance can't be rescaled through it.
    ratio = np.where(rescaled >= 0, ratio, 1.0)
    if np.all(ratio == 1):
        return False
    scaled = (rows * ratio[:, None]).astype(np.float32)
    write_weight(layer, *rows_on_grid(scaled, affine.k / ratio, affine.beta, weight.format, source, output))
    set_constant_input(batch_norm, 3, (mean * ratio).astype(np.float32))
    set_constant_input(batch_norm, 4, np.where(ratio == 1, variance, rescaled).astype(np.float32))
    if input_value(layer.node, 2) is not None:
        set_constant_input(layer.node, 2, (require_constant(layer.node, 2, "bias") * ratio).astype(np.float32))
    return True
