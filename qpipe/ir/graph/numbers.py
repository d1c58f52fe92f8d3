"""What the parameters of a network must be for there to be anything to quantize: numbers, of a size that grids have.

A network whose training diverged, or whose file was damaged, has parameters that are none, and runs all the same: a
ReLU makes 0 of NaN on some runtimes, a maximum passes over it, and what comes out looks like a network.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from qpipe.arith.namespace import AnyArray
from qpipe.errors import ModelError
from qpipe.ir.graph.layers import Layer
from qpipe.nodes import DOMAIN, constant_input, describe, float_attribute
from qpipe.ops import Product, op_of
from qpipe.ops.quantizer_parts import is_border

LARGEST = 2.0**64
"""Beyond it are no magnitudes that anything was trained to: squares would leave float32. Ranges end there, too."""

_VARIANCE = 4  # the input of a BatchNormalization


def check_numbers(graph: ir.Graph) -> None:
    """Refuse weights, biases, BatchNormalization's parameters and scales that are not what they must be.

    Raises:
        ModelError: names the node, the constant and what is wrong: NaN or infinite values, or ones of `LARGEST` and
            more; a variance that is negative, or 0 without an epsilon; an epsilon that is negative.
    """
    for problem in number_problems(graph):
        raise ModelError(problem)


def number_problems(graph: ir.Graph) -> Iterator[str]:
    """Each of them in a line, in the order of the graph."""
    for node in graph:
        is_batch_norm = Layer(node).is_batch_norm
        if is_batch_norm and (epsilon := float_attribute(node, "epsilon", 1e-5)) < 0:
            yield f"{describe(node)}: its epsilon is {epsilon:g}, expected 0 or more"
        is_quantizer = is_border(node) or node.domain == DOMAIN
        first = 1 if is_batch_norm or isinstance(op_of(node), Product) else 0 if is_quantizer else len(node.inputs)
        for index in range(first, len(node.inputs)):
            array = constant_input(node, index)
            if array is None or array.dtype.kind != "f" or not array.size:
                continue
            is_variance = is_batch_norm and index == _VARIANCE
            wrong = _not_finite(array, math.inf if is_variance else LARGEST)
            if wrong is None and is_variance:
                wrong = _no_variance(array, float_attribute(node, "epsilon", 1e-5))
            if wrong is not None:
                yield f"{describe(node)}: its constant '{node.inputs[index].name}' {wrong}"  # type: ignore[union-attr]


def _not_finite(array: AnyArray, limit: float) -> str | None:
    largest = float(np.abs(array).max())  # NaN where one is
    if largest < limit:
        return None
    wrong = ~np.isfinite(array)
    count, found = int(wrong.sum()), "NaN or infinite"
    if not count:
        wrong = np.abs(array) >= limit
        count, found = int(wrong.sum()), f"as large as {largest:.3g}"
    where = [int(i) for i in np.argwhere(wrong)[0]]
    expected = "finite ones" if found.startswith("NaN") else "less than 2**64"
    at = f", the first at {where}" if where else ""
    return f"has {count} of {array.size} values that are {found}{at}; expected {expected}"


def _no_variance(array: AnyArray, epsilon: float) -> str | None:
    channel = int(array.argmin())
    lowest = float(array.reshape(-1)[channel])
    if lowest >= 0 and lowest + epsilon > 0:
        return None
    expected = "0 or more" if lowest < 0 else f"more than 0 with the epsilon {epsilon:g}"
    return f"is a variance of {lowest:g} in channel {channel}, expected {expected}"
