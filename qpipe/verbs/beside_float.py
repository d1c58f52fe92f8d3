"""What calibration made, beside the float network: what it says of it, and what it leaves in the file."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Final

import onnx_ir as ir

from passes.shipping.finalize import Finalize
from qpipe.calibration.comparison import compare_networks
from qpipe.calibration.findings import find_problems
from qpipe.calibration.inputs import CalibrationInputs
from qpipe.ir.files.metadata import COMPARISON, set_json
from qpipe.ir.quantized.view import read_view
from qpipe.json_values import to_plain

IMAGES: Final = 32
"""That both networks run: a fortieth of the calibration data."""
SHOWN: Final = 5
"""Lines that are said; all are in the file."""


def compare_with_float(floats: ir.Model, network: ir.Model, inputs: CalibrationInputs, *, is_ready: bool) -> None:
    """Compare on a few images, warn of what is wrong by name, and leave the figures in the network's metadata.

    floats: the normalized float network. network: the trainable QDQ network. is_ready: whether it is meant to be used
    before it is trained; of others only what is not finite matters.

    Raises:
        ModelError: a tensor of either network is NaN or infinite.
    """
    final = network.clone()
    Finalize()(final)
    compared = compare_networks(floats, final, inputs.first(IMAGES))
    problems = find_problems(compared, read_view(network), read_view(final)) if is_ready else []
    set_json(network, COMPARISON, to_plain(replace(compared, problems=tuple(problems))))
    for problem in problems[:SHOWN]:
        warnings.warn(problem, stacklevel=2)
    if len(problems) > SHOWN:
        warnings.warn(f"and {len(problems) - SHOWN} more of the kind: `qpipe inspect` lists them", stacklevel=2)
