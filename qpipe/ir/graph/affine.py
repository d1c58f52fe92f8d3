"""What follows a layer's product: batch normalization and bias as `y = k (conv - mean) + beta`, in float64."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from qpipe.arith.namespace import A, square_root
from qpipe.ir.graph.layers import Layer
from qpipe.nodes import constant_input, float_attribute, require_constant

Float64Array = npt.NDArray[np.float64]


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
