"""A few thousand values of each tensor, drawn evenly from all that some images give: enough for its distribution."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from qpipe.calibration.percentile import FloatArray
from qpipe.calibration.pieces import Pieces
from qpipe.data.inputs import Inputs, count_of


def sample_values(
    model: ir.Model, names: Sequence[str], images: Inputs, *, count: int, seed: int = 0
) -> dict[str, FloatArray]:
    """About `count` values of each named tensor of a float network, or all where there are fewer.

    images: `[N, C, H, W]`, or arrays by name; every one gives as many.
    """
    rng = np.random.default_rng(seed)
    drawn: dict[str, list[FloatArray]] = {name: [] for name in names}
    for tensors, length in Pieces(model, list(names)).run(images):
        for name, tensor in tensors.items():
            flat = tensor.reshape(-1)
            share = max(count * length // count_of(images), 1)
            drawn[name].append(flat[rng.integers(0, flat.size, share)] if flat.size > share else flat.copy())
    return {name: np.concatenate(parts) for name, parts in drawn.items()}
