"""Bring channels of very different size closer together, by factors that the layers around them take and give back.

Where a tensor x lies between a layer that writes it and one that reads it, through what commutes with positive factors
(Relu, pools, Add, rows of images), any r > 0 per channel leaves the network the same function:

    x' = x / r      w_writer' = w_writer / r,  b' = b / r  (or gamma, beta)      w_reader'[:, c] = w_reader[:, c] r[c]

An activation has one grid for all of its channels: beside one that is 1e5 times as large the others keep no level. With
a[c] the largest magnitude of channel c, and w[c] that of the weights that read it,

    r[c] = sqrt(a[c] / w[c]) / s,    s the median of that root over the channels that matter,

shares the difference between both: a' and w' are then both as sqrt(a w), what the channel contributes. r is a power of
two, so not a bit of a float weight changes but its exponent. It is done only where a channel that matters (a w within 8
bits of the largest) has fewer than 2 levels of 8 bits, so that networks without such channels stay as they are, bit for
bit.

Where no weights share a step, r is free, and is taken wherever sizes differ by a bit:

    r[c] = a[c] / max a                 of what BatchNormalizations that stand alone read, as a residual stream
    r[c] = sqrt(q[c] / k[c])            of attention's queries q, whose keys k are multiplied by it

    r[c] = (a[c] / max a) ** t        of what a LayerNormalization gives to weights

The first leaves all channels equal. The second leaves what both lose least: with both as g = sqrt(q k), rounding adds
2 max(g)^2 sum g^2 to the scores, which is never above max(q)^2 sum k^2 + max(k)^2 sum q^2. In the third gamma and beta
take r for nothing, and weights lose by it, less than the activations do, because they are fitted to their layer's
output: t is that of a few from 0 to 1 which leaves the least of

    max(a / r)^2 sum (w r)^2  +  max(w r)^2 sum (a / r)^2 / 8

(Xiao et al. 2023, *SmoothQuant*, with a t for each layer).

Source: Nagel et al. 2019, *Data-Free Quantization Through Weight Equalization and Bias Correction*, section 4.1
(cross-layer equalization), with observed ranges instead of those of the weights that write: these have a grid each.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from qpipe.arith.namespace import Float64Array, FloatArray, IntArray
from qpipe.calibration.pieces import Pieces
from qpipe.calibration.shard import ALONE, Shard
from qpipe.ir.graph.layers import group_layers
from qpipe.ir.graph.shared_channels import SharedFactors, factor_graph, largest_read

LEVELS = 2.0**8
"""Of a grid: what lies below two steps of the largest is lost."""
GAIN = 1.0
"""Bits by which channels differ at least, where factors are free: what is less is not worth another weight."""
WEIGHTS_LOSE = 1 / 8
"""Of what activations of the same size lose: sums of weights' errors are those of a fit, and few values are maxima."""
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Of an activation's size in its factor."""
LEAST_GAIN = 0.8
"""Of the noise that is left: what is gained by less is chance."""
_MOST_LOG2 = 60
"""Of a ratio: far from where a float weight would leave float32."""


@dataclass(frozen=True, kw_only=True)
class EqualizeChannels(ir.passes.InPlacePass):
    """Run `inputs` (float32 `[N, C, H, W]`) through the normalized float network and move factors where they help."""

    name: ClassVar[str] = "equalize-channels"

    inputs: Any = field(default=(), repr=False, metadata={"argument": False})

    shard: Shard = field(default=ALONE, repr=False, metadata={"argument": False})

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rescale; ModelError and DataError as running the network raises them."""
        graph = factor_graph(model.graph, group_layers(model.graph))
        tensors = {str(value.name): factors for shared in graph.shared for value, factors in shared.tensors.items()}
        if not tensors or not len(self.inputs):
            return ir.passes.PassResult(model, False)
        sizes = largest_numbers(model, tensors, self.inputs, self.shard)
        ratios: dict[int, float] = {}
        for shared in graph.shared:
            ratios |= zip(shared.factors.tolist(), _ratio(shared, sizes).tolist(), strict=True)
        graph.multiply(ratios)
        return ir.passes.PassResult(model, any(ratio != 1 for ratio in ratios.values()))


def largest_numbers(
    model: ir.Model, tensors: Mapping[str, IntArray], images: FloatArray, shard: Shard
) -> dict[str, Float64Array]:
    """The largest magnitude of each named value's numbers that have one factor, in the form of its factors."""
    found: dict[str, Float64Array] = {}
    for pieces, _ in Pieces(model, list(tensors)).run(images):
        for name, tensor in pieces.items():
            axes = tuple(axis for axis, length in enumerate(tensors[name].shape) if length == 1)
            size = np.abs(tensor).max(axis=axes, keepdims=True).astype(np.float64)
            found[name] = np.maximum(found[name], size) if name in found else size
    # Processes run the same images, but another machine may add up in another order.
    merged = shard.largest(np.concatenate([found[name].reshape(-1) for name in tensors]))
    ends = np.cumsum([found[name].size for name in tensors])[:-1]
    return {n: m.reshape(found[n].shape) for n, m in zip(tensors, np.split(merged, ends), strict=True)}


def _ratio(shared: SharedFactors, sizes: Mapping[str, Float64Array]) -> Float64Array:
    """r, `[C]`; 1 of all channels where nothing is to be gained."""
    # What a factor divides, and what it multiplies.
    size, weight = np.zeros((2, len(shared.factors)))
    takes = [(factors, sizes[str(value.name)]) for value, factors in shared.tensors.items()]
    takes += [(-each.channels, largest_read(each)) for each in shared.weights]
    for factors, largest in takes:
        # A branch and what it is added to are in one unit, and what is large errs most. Beside weights each tensor's
        # are in parts of its largest channel: readers have their own units.
        unit = 1.0 if shared.is_free else float(largest.max()) or 1.0
        for sign, side in ((1, size), (-1, weight)):
            own = factors * sign > 0
            np.maximum.at(side, shared.places(factors[own]), largest[own] / unit)
    if not size.any() or not np.isfinite(size).all():
        return np.ones(len(size))
    if shared.is_free:
        return _free_ratio(size, weight)
    weighed = _weighed_ratio(size, weight)
    return _smooth_ratio(size, weight) if shared.is_normalized and (weighed == 1).all() else weighed


def _free_ratio(size: Float64Array, other: Float64Array) -> Float64Array:
    """That leaves all channels equal in size, or as equal in one tensor as in the `other`."""
    if other.any():
        alive = (size > 0) & (other > 0)
        root = _log2(size / size.max(), alive) / 2 - _log2(other / other.max(), alive) / 2
    else:
        # What other data may bring to a channel that was all but silent is to stay inside of the range.
        alive = size > 0
        root = np.maximum(_log2(size / size.max(), alive), -np.log2(LEVELS))
    is_gain = alive.any() and np.ptp(root[alive]) >= GAIN
    return np.where(alive & is_gain, np.exp2(np.clip(root, -_MOST_LOG2, _MOST_LOG2)), 1.0)


def _weighed_ratio(size: Float64Array, weight: Float64Array) -> Float64Array:
    """That shares the difference with weights; 1 of all channels where none that matters is lost."""
    alive = (size > 0) & (weight > 0)
    matters = alive & (size * weight * LEVELS >= (size * weight).max())
    if not np.any(matters & (size * LEVELS < 2 * size.max())):
        return np.ones(len(size))
    root = (_log2(size, alive) - _log2(weight, alive)) / 2
    log2 = np.round(root - np.median(root[matters]))
    return np.where(alive, np.exp2(np.clip(log2, -_MOST_LOG2, _MOST_LOG2)), 1.0)


def _smooth_ratio(size: Float64Array, weight: Float64Array) -> Float64Array:
    """That shares a normalization's sizes with the weights behind it, so that both together lose least."""
    alive = (size > 0) & (weight > 0)
    if not alive.any():
        return np.ones(len(size))
    a, w = (np.where(alive, side / side.max(), 0) for side in (size, weight))
    found = []
    for share in SHARES:
        log2 = np.round(share * _log2(a, alive))
        r = np.exp2(np.clip(log2, -np.log2(LEVELS), 0))
        (x, y) = a / r, w * r
        loss = x.max() ** 2 * (y**2).sum() + WEIGHTS_LOSE * y.max() ** 2 * (x**2).sum()
        found.append((float(loss), r))
    least = min(found, key=lambda one: one[0])
    return least[1] if least[0] < LEAST_GAIN * found[0][0] else np.ones(len(size))


def _log2(sizes: Float64Array, alive: npt.NDArray[np.bool_]) -> Float64Array:
    """0 of what is not alive."""
    return np.log2(sizes, out=np.zeros(len(sizes)), where=alive)
