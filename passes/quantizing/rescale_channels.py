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

from qpipe.formats.base import Around
from qpipe.ir.graph.affine import read_affine
from qpipe.ir.quantized.final_weights import float_rows
from qpipe.ir.quantized.rescaled import possible_ratio, rescale_batch_norm
from qpipe.ir.quantized.view import QuantizedLayer, is_trainable, read_view
from qpipe.ir.quantized.write_weight import rows_on_grid, write_weight


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
    ratio = possible_ratio(layer, ratio)
    if np.all(ratio == 1):
        return False
    scaled = (rows * ratio[:, None]).astype(np.float32)
    write_weight(layer, *rows_on_grid(scaled, weight.format, Around(affine.k / ratio, affine.beta, source, output)))
    rescale_batch_norm(layer, ratio)
    return True
