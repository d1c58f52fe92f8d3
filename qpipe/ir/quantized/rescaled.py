"""A factor r on each output channel of a layer, which the BatchNormalization behind it gives back.

mean' = r mean,   var' = r**2 (var + eps) - eps      so      gamma / sqrt(var' + eps) = k / r
"""

from __future__ import annotations

import numpy as np

from qpipe.arith.namespace import Float64Array
from qpipe.ir.graph.layers import Layer
from qpipe.nodes import float_attribute, input_value, require_constant, set_constant_input


def possible_ratio(layer: Layer, ratio: Float64Array) -> Float64Array:
    """r, `[C]`, but 1 of a channel without variance: it can't be rescaled through it."""
    return np.where(_variance(layer, ratio) >= 0, ratio, 1.0)


def rescale_batch_norm(layer: Layer, ratio: Float64Array) -> None:
    """Replace its statistics, and a bias before it, for weights that are multiplied by a possible r, `[C]`."""
    batch_norm = layer.batch_norm
    assert batch_norm is not None
    mean, variance = (require_constant(batch_norm, i, "statistics").astype(np.float64) for i in (3, 4))
    rescaled = np.where(ratio == 1, variance, _variance(layer, ratio))
    set_constant_input(batch_norm, 3, (mean * ratio).astype(np.float32))
    set_constant_input(batch_norm, 4, rescaled.astype(np.float32))
    if input_value(layer.node, 2) is not None:
        set_constant_input(layer.node, 2, (require_constant(layer.node, 2, "bias") * ratio).astype(np.float32))


def _variance(layer: Layer, ratio: Float64Array) -> Float64Array:
    assert layer.batch_norm is not None
    epsilon = float_attribute(layer.batch_norm, "epsilon", 1e-5)
    variance = require_constant(layer.batch_norm, 4, "statistics").astype(np.float64)
    rescaled: Float64Array = ratio**2 * (variance + epsilon) - epsilon
    return rescaled
