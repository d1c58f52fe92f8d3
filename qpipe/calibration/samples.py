"""Values of each tensor that some samples give: a few thousand drawn evenly, and all beyond a range."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from qpipe.calibration.percentile import FloatArray
from qpipe.calibration.pieces import Pieces
from qpipe.data.inputs import Inputs, count_of


@dataclass
class Sample:
    """Of one tensor: how many values it has, some that are drawn from those within a range, and all beyond it."""

    count: int = 0
    drawn: list[FloatArray] = field(default_factory=list)
    beyond: list[FloatArray] = field(default_factory=list)

    @property
    def within(self) -> FloatArray:
        """The values that are drawn, of magnitude up to the range."""
        return np.concatenate(self.drawn)

    @property
    def outside(self) -> FloatArray:
        """All values of a larger magnitude."""
        return np.concatenate(self.beyond)


def sample_values(
    model: ir.Model, ranges: Mapping[str, float], samples: Inputs, *, count: int, seed: int = 0
) -> dict[str, Sample]:
    """About `count` values within its range of each named tensor of a float network, or all where there are fewer.

    Args:
        model: the float network.
        ranges: name -> the largest magnitude that is within.
        samples: `[N, C, H, W]`, or arrays by name; every one gives as many values.
        count: of values that are drawn.
        seed: of the draw.
    """
    rng = np.random.default_rng(seed)
    found = {name: Sample() for name in ranges}
    for tensors, length in Pieces(model, list(ranges)).run(samples):
        for name, tensor in tensors.items():
            flat, own = tensor.reshape(-1), found[name]
            share = max(count * length // count_of(samples), 1)
            drawn = flat[rng.integers(0, flat.size, share)] if flat.size > share else flat
            own.count += flat.size
            own.drawn.append(drawn[np.abs(drawn) <= ranges[name]])
            own.beyond.append(flat[np.abs(flat) > ranges[name]])
    return found
