"""Carry a residual block's input through the layers of its main path, in channels that are given up for it.

A row of a layer's weight that is a Dirac kernel passes a channel of its input on; a Relu leaves it as it is from 0 on.
So behind the block's layers but the last there are channels that hold the block's input, and the last may add them up.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from qpipe.arith.namespace import Float64Array, FloatArray, IntArray
from qpipe.ir.graph.layers import Layer, group_layers
from qpipe.ir.graph.residual import ResidualBlock
from qpipe.nodes import (
    constant_input,
    float_attribute,
    group_count,
    initializer,
    input_value,
    require_constant,
    set_constant_input,
)
from qpipe.ops import Rectifier, product_of
from qpipe.ops.weight_layout import is_depthwise, to_rows


@dataclass(frozen=True)
class MainPath:
    """A block's main path that ends in the sums of a layer with weights: `last`, whose output the Add reads.

    before: the layers on the way to it, each of which reads the one before; None where something else lies there, or
    a function that no range of its input passes unchanged.
    """

    last: Layer
    before: tuple[Layer, ...] | None

    @property
    def stages(self) -> tuple[tuple[Layer, ...], ...]:
        """`before`, cut behind each layer whose result another mixes: a depthwise one stays with what it reads."""
        found: list[tuple[Layer, ...]] = []
        for layer in self.before or ():
            if found and is_depthwise(layer.node):
                found[-1] += (layer,)
            else:
                found.append((layer,))
        return tuple(found)

    @property
    def readers(self) -> tuple[Layer, ...]:
        """What reads each stage's result: the first of the next, or `last`."""
        return (*(stage[0] for stage in self.stages[1:]), self.last) if self.stages else ()

    @property
    def bound(self) -> float:
        """The largest number that all layers before the last let pass."""
        functions = [layer.function for layer in self.before or ()]
        return min((each.bound for each in functions if isinstance(each, Rectifier)), default=math.inf)

    @property
    def is_cut(self) -> bool:
        """Whether they cut what is below 0."""
        return any(layer.function is not None for layer in self.before or ())


def main_path(graph: ir.Graph, block: ResidualBlock) -> MainPath | None:
    """A float graph's; None where it doesn't end in the sums of a Conv or Gemm, over all channels."""
    layers = [layer for layer in group_layers(graph) if layer.node in block.main_nodes]
    if not layers or not layers[-1].is_weighted or layers[-1].activation is not None:
        return None
    *before, last = layers
    if last.output is not block.main or not takes_bias(last) or group_count(last.node) > 1:
        return None
    value, is_chain = block.start, bool(before)
    for layer in layers:
        is_chain &= layer.is_weighted and layer.inputs[0] is value and _passes(layer)
        value = layer.output
    return MainPath(last, tuple(before) if is_chain else None)


def takes_bias(layer: Layer) -> bool:
    """Whether something can be added to each of its channels."""
    return layer.batch_norm is not None or product_of(layer.node).takes_bias(layer.node)


def set_bias(node: ir.Node, bias: Float64Array) -> None:
    """Give a product this bias, one number for each channel."""
    if input_value(node, 2) is None:
        assert isinstance(node.graph, ir.Graph)
        node.resize_inputs(3)
        node.replace_input_with(2, initializer(node.graph, f"{node.name}_bias", bias.astype(np.float32)))
    else:
        set_constant_input(node, 2, bias.astype(np.float32))


def _passes(layer: Layer) -> bool:
    """Whether it can pass on what is from 0 to a bound; what is cut off below 0 needs a place for an offset."""
    function = layer.function
    return function is None or isinstance(function, Rectifier)


def importance(reader: Layer, variance: Float64Array) -> Float64Array:
    """How much each channel that a layer reads contributes to its sums, `[C]`: `|W[:, c]|^2 var(x[c])`."""
    rows = to_rows(reader.node, require_constant(reader.node, 1, "weight")).astype(np.float64)
    groups = group_count(reader.node)
    # Channels of a group lie fastest, once for each tap.
    each = np.square(rows).reshape(groups, len(rows) // groups, -1, len(variance) // groups).sum(axis=(1, 2))
    found: Float64Array = each.reshape(-1) * variance
    return found


@dataclass(frozen=True)
class Carried:
    """Channels of a block's input, `[R]`: which, with mean, variance and the numbers that they lie between."""

    channels: IntArray
    mean: Float64Array
    variance: Float64Array
    low: Float64Array
    high: Float64Array


def carry(path: MainPath, carried: Carried, given_up: Sequence[IntArray]) -> bool:
    """Let channels of each stage, `[R]` each, hold `scale (x - low)` of the carried ones; False where one can't.

    low is 0 where nothing cuts or nothing is below; scale is 1 but where they would pass a bound. Nothing changes where
    the answer is False.
    """
    low = np.minimum(carried.low, 0) if path.is_cut else np.zeros(len(carried.low))
    span = np.maximum(carried.high - low, np.finfo(np.float32).tiny)
    scale = np.minimum(1.0, path.bound / span)
    weights: list[tuple[Layer, IntArray, FloatArray]] = []
    inputs = carried.channels
    for stage, outputs in zip(path.stages, given_up, strict=True):
        for layer in stage:
            weight = require_constant(layer.node, 1, "weight")
            # A normalization behind it has the scale.
            factor = scale if not weights and layer.batch_norm is None else np.ones(len(scale))
            passing = product_of(layer.node).passing(layer.node, weight, outputs, inputs, factor)
            if passing is None or (not weights and low.any() and not takes_bias(layer)):
                return False
            weights.append((layer, outputs, passing))
            inputs = outputs
    mean, variance, offset = carried.mean, carried.variance, low
    for layer, outputs, passing in weights:
        _write(layer, outputs, passing, scale, offset, mean, variance)
        mean, variance = scale * (mean - offset), scale**2 * variance
        scale, offset = np.ones_like(scale), np.zeros_like(offset)
    return True


def _write(
    layer: Layer,
    outputs: IntArray,
    passing: FloatArray,
    scale: Float64Array,
    offset: Float64Array,
    mean: Float64Array,
    variance: Float64Array,
) -> None:
    """Let outputs that pass x, of this mean and variance, be `scale (x - offset)`."""
    own = -scale * offset if layer.batch_norm is None else np.zeros(len(outputs))
    before = constant_input(layer.node, 2)
    if before is not None or own.any():
        rows = to_rows(layer.node, passing)
        bias = np.zeros(len(rows)) if before is None else before.reshape(-1) * np.ones(len(rows))
        bias[outputs] = own
        set_bias(layer.node, bias)
    set_constant_input(layer.node, 1, passing)
    if layer.batch_norm is not None:
        epsilon = float_attribute(layer.batch_norm, "epsilon", 1e-5)
        values = scale * np.sqrt(variance + epsilon), scale * (mean - offset), mean, variance
        for index, value in enumerate(values, 1):
            _put(layer.batch_norm, index, outputs, value)


def _put(node: ir.Node, index: int, channels: IntArray, values: Float64Array) -> None:
    """Change a normalization's parameter of some channels."""
    array = require_constant(node, index, "parameter").copy()
    array[channels] = values
    set_constant_input(node, index, array)
