"""BatchNormalization on the FAQ paper's grid, to measure what qpipe's own exponents are worth.

The paper gives all parameters but the weights `l = -b/2`: the 8-bit multiplier `k = gamma / sqrt(var + eps)` lies on
multiples of 1/16, the 32-bit constant on multiples of 2**-16 (section 3.1.1). qpipe gives each multiplier an exponent.
"""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

BITS, EXPONENT = 8, -4
BIAS_EXPONENT = -16


def round_batch_norms(source: Path, output: Path) -> None:
    """Write the float network with every BatchNormalization's k and constant on the paper's grid."""
    model = onnx.load(source)
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type != "BatchNormalization":
            continue
        gamma, beta, mean, variance = (
            numpy_helper.to_array(tensors[name]).astype(np.float64) for name in node.input[1:5]
        )
        epsilon = next((a.f for a in node.attribute if a.name == "epsilon"), 1e-5)
        deviation = np.sqrt(variance + epsilon)
        k = _on_grid(gamma / deviation, EXPONENT, 2 ** (BITS - 1) - 1)
        constant = _on_grid(beta - gamma / deviation * mean, BIAS_EXPONENT, 2**31 - 1)
        for name, values in ((node.input[1], k * deviation), (node.input[2], constant + k * mean)):
            tensors[name].CopyFrom(numpy_helper.from_array(values.astype(np.float32), name))
    onnx.save(model, output)


def _on_grid(values: npt.NDArray[np.float64], exponent: int, largest: int) -> npt.NDArray[np.float64]:
    grid: npt.NDArray[np.float64] = np.clip(np.round(np.ldexp(values, -exponent)), -largest, largest)
    return np.ldexp(grid, exponent)
