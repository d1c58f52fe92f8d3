"""What follows a layer's product: batch normalization and bias as `y = k (conv - mean) + beta`, in float64."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from qpipe.arith.namespace import A, Float64Array, FloatArray, square_root
from qpipe.ir.graph.layers import Layer
from qpipe.nodes import constant_input, float_attribute, require_constant

_LARGEST_LOG2: Final = 60
"""Of statistics times what their channel's weights are scaled by."""


@dataclass(frozen=True)
class Affine:
    """k, beta, mean: float64 `[C]`; conv is the product without its bias."""

    k: Float64Array
    beta: Float64Array
    mean: Float64Array


def normalization_factor(gamma: A, variance: A, epsilon: float) -> A:
    """`gamma / sqrt(var + eps)`, of float64: numpy and torch give the same bits."""
    factor: A = gamma / square_root(variance + epsilon)
    return factor


def read_affine(layer: Layer, channels: int) -> Affine:
    """The affine map of a layer with `channels` outputs; a bias before a BatchNormalization moves its mean.

    A BatchNormalization that stands alone has its k in the weight: here it is 1, and mean is in units of k's input.
    """
    bias = None if layer.is_batch_norm else constant_input(layer.node, 2)
    offset = np.zeros(channels) if bias is None else bias.astype(np.float64).reshape(-1) * np.ones(channels)
    if layer.batch_norm is None:
        return Affine(np.ones(channels), offset, np.zeros(channels))
    k, beta, mean = batch_norm_parameters(layer)
    return Affine(k, beta, mean - offset)


def batch_norm_parameters(layer: Layer) -> tuple[Float64Array, Float64Array, Float64Array]:
    """k, beta and mean of the layer's BatchNormalization node, which may be its main node."""
    node = layer.batch_norm or layer.node
    names = ("scale", "bias", "mean", "variance")
    gamma, beta, mean, variance = (
        require_constant(node, i + 1, name).astype(np.float64) for i, name in enumerate(names)
    )
    return normalization_factor(gamma, variance, float_attribute(node, "epsilon", 1e-5)), beta, mean


def unit_ratio(rows: FloatArray | Float64Array, mean: Float64Array, variance: Float64Array) -> Float64Array:
    """r, `[C]`: powers of two that bring the norm of each channel's weights to [1, 2); 1 where all of them are zero.

    rows: `[C, K]`. mean, variance: of their sums, which stay numbers whose squares are.
    """
    size = np.maximum(np.abs(mean), np.sqrt(variance))
    norm = np.sqrt(np.square(rows, dtype=np.float64).sum(axis=1))
    most = _LARGEST_LOG2 - np.frexp(size)[1]
    ratio: Float64Array = np.where(norm > 0, np.exp2(np.minimum(1.0 - np.frexp(norm)[1], most)), 1.0)
    return ratio


def batch_norm_of(
    mean: Float64Array, variance: Float64Array, bias: Float64Array, ratio: Float64Array, epsilon: float
) -> tuple[FloatArray, ...]:
    """gamma, beta, mean and variance, float32, with which sums of weights times `ratio` are the sums and the bias.

    mean, variance: of the sums without bias or ratio. All values are float32 before they are used, so that k errs
    least.
    """
    own_mean = (mean * ratio).astype(np.float32)
    own_variance = (variance * ratio**2).astype(np.float32)
    gamma = (np.sqrt(own_variance.astype(np.float64) + epsilon) / ratio).astype(np.float32)
    beta = (bias + own_mean.astype(np.float64) / ratio).astype(np.float32)
    return gamma, beta, own_mean, own_variance
