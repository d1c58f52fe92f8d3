"""Which layers write and which read the same channels, so that a factor per channel can move from one to the other.

A channel keeps its place through what treats every channel alike and commutes with a positive factor: Relu, pools,
Add, what makes rows of images. So all tensors between some layers with weights may share one factor per channel, which
those that write it divide their weights by, and those that read it multiply theirs with.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from qpipe.arith.namespace import AnyArray, Float64Array, IntArray
from qpipe.ir.graph.layers import Layer
from qpipe.nodes import constant_array, group_count, input_value, require_constant, set_constant_input, static_shape
from qpipe.ops import Rectifier, Role
from qpipe.ops.weight_layout import to_rows, to_weight


@dataclass
class SharedChannels:
    """count: of channels. values: the tensors that have them, each with how many neighbours a channel has there.

    writers, readers: the layers with weights at both ends.
    """

    count: int
    values: dict[ir.Value, int] = field(default_factory=dict)
    writers: dict[ir.Node, Layer] = field(default_factory=dict)
    readers: dict[ir.Node, int] = field(default_factory=dict)


def shared_channels(layers: list[Layer]) -> list[SharedChannels]:
    """All of them, in the order of the layers that write first; what ends elsewhere than in weights is none."""
    by_output = {layer.output: layer for layer in layers}
    reading: dict[ir.Value, list[Layer]] = {}
    for layer in layers:
        for value in layer.inputs:
            reading.setdefault(value, []).append(layer)
    found, seen = [], set[ir.Value]()
    for layer in layers:
        if layer.is_weighted and layer.output not in seen and (count := _channels(layer)):
            shared = SharedChannels(count)
            if _grow(shared, layer.output, by_output, reading) and shared.readers:
                found.append(shared)
            seen.update(shared.values)
    return found


def divide_outputs(layer: Layer, ratio: Float64Array) -> None:
    """Divide what a layer with weights writes by a power of two per channel, `[C]`: exact, where nothing underflows."""
    scaled, indices = layer.batch_norm or layer.node, (1, 2) if layer.batch_norm is not None else (2,)
    if layer.batch_norm is None:
        weight = require_constant(layer.node, 1, "weight")
        rows = to_rows(layer.node, weight) / ratio[:, None]
        set_constant_input(layer.node, 1, to_weight(layer.node, rows, weight.shape).astype(weight.dtype))
    for index in indices:
        if input_value(scaled, index) is not None:
            constant = require_constant(scaled, index, "bias")
            spread: AnyArray = constant if constant.size == len(ratio) else np.broadcast_to(constant, ratio.shape)
            set_constant_input(scaled, index, (spread / ratio.reshape(spread.shape)).astype(constant.dtype))


def multiply_inputs(node: ir.Node, ratio: Float64Array, neighbours: int) -> None:
    """Multiply the weights that read channel c by `ratio[c]`, powers of two `[C]`."""
    weight = require_constant(node, 1, "weight")
    rows: AnyArray = to_rows(node, weight)
    scaled = rows * ratio[channels_read(node, rows.shape, len(ratio), neighbours)]
    set_constant_input(node, 1, to_weight(node, scaled, weight.shape).astype(weight.dtype))


def largest_read(node: ir.Node, count: int, neighbours: int) -> Float64Array:
    """The largest magnitude among the weights that read each channel, `[C]`."""
    rows = np.abs(to_rows(node, require_constant(node, 1, "weight"))).astype(np.float64)
    largest = np.zeros(count)
    np.maximum.at(largest, channels_read(node, rows.shape, count, neighbours), rows)
    return largest


def channels_read(node: ir.Node, shape: tuple[int, ...], count: int, neighbours: int) -> IntArray:
    """The channel that each weight of the rows `[O, K]` reads, `[O, K]`."""
    outputs, width = shape
    groups = group_count(node)
    each = count // groups
    # Of a convolution the channels lie fastest, each of a group's by kernel place; of a matrix its neighbours do.
    along = np.arange(width) // neighbours if neighbours > 1 else np.arange(width) % each
    return along[None] + (np.arange(outputs) // (outputs // groups) * each)[:, None]


def _channels(layer: Layer) -> int:
    """How many channels a layer with weights writes along axis 1; 0 where it has them elsewhere."""
    shape = static_shape(layer.output)
    return 0 if shape is None or len(shape) not in {2, 3, 4} or not _has_channels(layer) else shape[1] or 0


def _has_channels(layer: Layer) -> bool:
    return layer.op.has_channels(layer.node) and constant_array(input_value(layer.node, 1)) is not None  # type: ignore[attr-defined]


def _grow(
    shared: SharedChannels,
    start: ir.Value,
    by_output: Mapping[ir.Value, Layer],
    reading: Mapping[ir.Value, list[Layer]],
) -> bool:
    """Add all that belongs to `start`; whether it ends in weights on all sides."""
    stack, whole = [start], True
    while stack:
        value = stack.pop()
        if value in shared.values:
            continue
        shape, layer = static_shape(value), by_output.get(value)
        size = shape[1] if shape is not None and len(shape) > 1 else None
        shared.values[value] = (size or 0) // shared.count
        if layer is None or size is None or size % shared.count or value.is_graph_output() or not _commutes(layer):
            whole = False
            continue
        if layer.is_weighted:
            shared.writers[layer.node] = layer
            whole &= size == shared.count and _has_channels(layer)
        elif layer.role is not Role.NONE and layer.op.keeps_channels(layer.node):
            stack += layer.inputs
        else:
            whole = False
        readers = reading.get(value, [])
        whole &= {node for reader in readers for node in reader.nodes} >= {node for node, _ in value.uses()}
        for reader in readers:
            if reader.is_weighted:
                shared.readers[reader.node] = shared.values[value]
                whole &= _has_channels(reader) and (len(shape or ()) == 2 or shared.values[value] == 1)
            else:
                # What it can't pass is found where it is looked at.
                stack.append(reader.output)
    return whole


def _commutes(layer: Layer) -> bool:
    """Whether a positive factor before its activation is one behind it."""
    function = layer.function
    return function is None or (isinstance(function, Rectifier) and math.isinf(function.bound))
