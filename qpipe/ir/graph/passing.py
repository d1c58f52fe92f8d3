"""Channels that a layer with weights only passes on: `y[c] = g x[i]` for a power of two g, of what is not below 0."""

from __future__ import annotations

import numpy as np

from qpipe.arith.namespace import Float64Array
from qpipe.arith.rescale import FLOAT32_NOISE, single_powers
from qpipe.ir.graph.affine import read_affine
from qpipe.ir.graph.layers import Layer
from qpipe.nodes import require_constant
from qpipe.ops.weight_layout import to_rows


def passing_gain(layer: Layer) -> Float64Array:
    """g of each output channel `[C]`, as float32 holds it; 0 of a channel that does something else."""
    rows = to_rows(layer.node, require_constant(layer.node, 1, "weight")).astype(np.float64)
    affine = read_affine(layer, len(rows))
    gain = affine.k * rows.sum(axis=1)
    offset = affine.beta - affine.k * affine.mean
    passes = single_powers(rows, affine.k) & (gain > 0)
    passes &= np.abs(offset) <= FLOAT32_NOISE * (np.abs(affine.beta) + np.abs(affine.k * affine.mean))
    found: Float64Array = np.where(passes, np.exp2(np.round(np.log2(np.where(passes, gain, 1.0)))), 0.0)
    return found
