"""Bring channels of very different size closer together, by factors that the layers around them take and give back.

Where a tensor x lies between a layer that writes it and one that reads it, through what commutes with positive factors
(Relu, pools, Add, rows of images), any r > 0 per channel leaves the network the same function:

    x' = x / r      w_writer' = w_writer / r,  b' = b / r  (or gamma, beta)      w_reader'[:, c] = w_reader[:, c] r[c]

r is a power of two, so not a bit of a float weight changes but its exponent. An activation has one grid for all of its
channels: beside one that is 1e5 times as large the others keep no level. With a[c] the largest magnitude of channel c,
and w[c] that of the weights that read it,

    r[c] = sqrt(a[c] / w[c]) / s,    s the median of that root over the channels that matter,

shares the difference between both: a' and w' are then both as sqrt(a w), what the channel contributes. It is done only
where a channel that matters (a w within 8 bits of the largest) has fewer than 2 levels of 8 bits, so that networks
without such channels stay as they are, bit for bit.

Source: Nagel et al. 2019, *Data-Free Quantization Through Weight Equalization and Bias Correction*, section 4.1
(cross-layer equalization), with observed ranges instead of those of the weights that write: these have a grid each.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import onnx_ir as ir

from qpipe.arith.namespace import Float64Array, FloatArray
from qpipe.calibration.comparison import channel_range
from qpipe.calibration.pieces import Pieces
from qpipe.calibration.shard import ALONE, Shard
from qpipe.ir.graph.layers import group_layers
from qpipe.ir.graph.shared_channels import (
    SharedChannels,
    divide_outputs,
    largest_read,
    multiply_inputs,
    shared_channels,
)

LEVELS = 2.0**8
"""Of a grid: what lies below two steps of the largest is lost."""
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
        found = shared_channels(group_layers(model.graph))
        names = [str(value.name) for shared in found for value in shared.values]
        if not names or not len(self.inputs):
            return ir.passes.PassResult(model, False)
        sizes = _largest(model, names, self.inputs)
        # Processes run the same images, but another machine may add up in another order.
        merged = self.shard.largest(np.concatenate([sizes[name] for name in names]))
        sizes = dict(zip(names, np.split(merged, np.cumsum([len(sizes[name]) for name in names])[:-1]), strict=True))
        modified = False
        for shared in found:
            ratio = _ratio(shared, sizes)
            if not np.all(ratio == 1):
                _rescale(shared, ratio)
                modified = True
        return ir.passes.PassResult(model, modified)


def _largest(model: ir.Model, names: list[str], images: FloatArray) -> dict[str, Float64Array]:
    """The largest magnitude along axis 1 of each named value."""
    found: dict[str, Float64Array] = {}
    for tensors, _ in Pieces(model, names).run(images):
        for name, tensor in tensors.items():
            size = np.abs(channel_range(tensor)).max(axis=0)
            found[name] = np.maximum(found[name], size) if name in found else size
    return found


def _ratio(shared: SharedChannels, sizes: Mapping[str, Float64Array]) -> Float64Array:
    """r, `[C]`; 1 of all channels where none that matters is lost."""
    ones = np.ones(shared.count)
    # Each tensor's in parts of its largest channel: a branch and what it is added to have their own units.
    tensors = [sizes[str(v.name)].reshape(shared.count, -1).max(axis=1) for v in shared.values]
    read = [largest_read(node, shared.count, neighbours) for node, neighbours in shared.readers.items()]
    size, weight = (
        np.max([t / t.max() for t in group if t.max() > 0] or [0 * ones], axis=0) for group in (tensors, read)
    )
    matters = size * weight * LEVELS >= (size * weight).max()
    matters &= (size > 0) & (weight > 0)
    if not np.any(matters & (size * LEVELS < 2 * size.max())) or not np.isfinite(size).all():
        return ones
    alive = (size > 0) & (weight > 0)
    root = np.zeros(shared.count)
    root[alive] = (np.log2(size[alive]) - np.log2(weight[alive])) / 2
    log2 = np.round(root - np.median(root[matters]))
    return np.where(alive, np.exp2(np.clip(log2, -_MOST_LOG2, _MOST_LOG2)), 1.0)


def _rescale(shared: SharedChannels, ratio: Float64Array) -> None:
    for layer in shared.writers.values():
        divide_outputs(layer, ratio)
    for node, neighbours in shared.readers.items():
        multiply_inputs(node, ratio, neighbours)
