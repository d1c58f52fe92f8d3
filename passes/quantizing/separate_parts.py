"""Make one layer for each part of a layer's output channels, where the parts go different ways.

    Slice(f(W x + b), part)  =  f(W[part] x + b[part])          f: BatchNormalization, activation, reordering

A gated unit writes numbers and what lets them pass in one convolution. As one tensor they share a grid: what
goes into a Sigmoid, which is flat from 8 on, has the steps of numbers that reach to 60. As layers of their own each
part has its grid and its unit, and its function's table is a part of it. The products are the same, and so is the
function, to the order of sums.

It is done where one part goes into a function of one number and another does not, or into another one: a table is as
good as its operand's steps. Parts that only differ in size were tried and gave nothing (queries, keys and values of
five transformers within 0.2 dB; a YOLO's parts, which a Concat joins again, lost 0.6).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from qpipe.arith.namespace import IntArray
from qpipe.ir.graph.ending import remove_unused
from qpipe.ir.graph.layer_options import NO_OPTIONS, LayerTable
from qpipe.ir.graph.layers import Layer, group_layers
from qpipe.ir.graph.rewrite import only_reader
from qpipe.nodes import (
    constant_array,
    constant_input,
    group_count,
    initializer,
    input_value,
    ints_attribute,
    name_value,
    rank,
    require_constant,
    static_shape,
)
from qpipe.ops import Curve, activation_of, op_of, product_of
from qpipe.ops.slice import slices
from qpipe.ops.weight_layout import output_axis


@dataclass(frozen=True)
class PartedLayer:
    """A layer of weights, the nodes behind it, each the only reader of the one before, and the Slices that read those.

    axes: of each node's result, from the layer's on: that along which output channels lie, the first of several.
    parts: what each Slice takes of that axis in the end.
    """

    layer: ir.Node
    behind: tuple[ir.Node, ...]
    axes: tuple[int, ...]
    slices: tuple[ir.Node, ...]
    parts: tuple[range, ...]

    @property
    def sizes(self) -> list[int]:
        """Of the axis in each node's result."""
        shapes = [static_shape(node.outputs[0]) or () for node in (self.layer, *self.behind)]
        return [shape[axis] or 0 for shape, axis in zip(shapes, self.axes, strict=True)]


@dataclass(frozen=True, kw_only=True)
class SeparateParts(ir.passes.InPlacePass):
    """Every layer whose parts differ in what reads them. layers: what some are told by name; these stay whole."""

    name: ClassVar[str] = "separate-parts"

    layers: LayerTable = NO_OPTIONS

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Separate, in a normalized float network."""
        found = layers_in_parts(model.graph, self.layers)
        for parted in found:
            _separate(model.graph, parted)
        if found:
            remove_unused(model)
        return ir.passes.PassResult(model, bool(found))


def layers_in_parts(graph: ir.Graph, told: LayerTable) -> list[PartedLayer]:
    """All that are to be separated. told: what some are told by name."""
    layers = [layer for layer in group_layers(graph) if not any(entry.hits(layer) for entry in told.entries)]
    return [parted for layer in layers if (parted := _parted(layer)) is not None]


def _parted(layer: Layer) -> PartedLayer | None:
    """What a layer is where nothing but Slices of its channels reads it, each of its own part and for ends unlike."""
    node = layer.node
    if not layer.is_weighted or group_count(node) > 1:
        return None
    value, behind = node.outputs[0], list[ir.Node]()
    axes = [product_of(node).channel_axis % (rank(value) or 1)]
    while (parts := _parts(value, axes[-1])) is None:
        reader = only_reader(value)
        axis = None if reader is None or reader.inputs[0] is not value else _axis_behind(reader, axes[-1])
        if reader is None or axis is None:
            return None
        value = reader.outputs[0]
        behind.append(reader)
        axes.append(axis)
    if len({frozenset(_functions(part.outputs[0])) for part in parts}) == 1:
        return None
    return PartedLayer(node, tuple(behind), tuple(axes), tuple(parts), tuple(parts.values()))


def _parts(value: ir.Value, axis: int) -> dict[ir.Node, range] | None:
    """What each of its readers takes along the axis, and nothing else; None where they aren't such."""
    readers, shape = [use.node for use in value.uses()], static_shape(value)
    size = None if shape is None else shape[axis]
    if shape is None or size is None or len(readers) < 2 or value.is_graph_output():
        return None
    found = dict[ir.Node, range]()
    for reader in readers:
        # One in a branch of another node stays there.
        if reader.op_type != "Slice" or reader.graph is not value.graph or op_of(reader).refusal(reader) is not None:
            return None
        taken = {along % len(shape): part for along, part in slices(reader).items()}
        if list(taken) != [axis]:
            return None
        found[reader] = range(size)[taken[axis]]
    ordered = sorted(found.values(), key=lambda part: part.start)
    is_apart = all(one.stop <= other.start for one, other in pairwise(ordered))
    return found if is_apart and all(part and part.step == 1 for part in ordered) else None


def _axis_behind(node: ir.Node, axis: int) -> int | None:
    """Where the channels are behind a node that has the same parts of its result for parts of its operand."""
    if Layer(node).is_batch_norm:
        return axis if axis == 1 else None
    if activation_of(node) is not None:
        constants = [constant_array(value) for value in node.inputs[1:] if value is not None]
        return axis if all(array is not None and array.size == 1 for array in constants) else None
    if node.op_type == "Transpose":
        return list(ints_attribute(node, "perm", tuple(reversed(range(rank(node.inputs[0]) or 0))))).index(axis)
    source, result = static_shape(node.inputs[0]), static_shape(node.outputs[0])
    if node.op_type != "Reshape" or constant_input(node, 1) is None or source is None or result is None:
        return None
    return _axis_reshaped(source[axis:], result)


def _axis_reshaped(source: Sequence[int | None], result: Sequence[int | None]) -> int | None:
    """The axis of the result whose parts are those of the first of these sizes, which the others follow."""
    if None in source:
        return None
    size, numbers = source[0] or 0, math.prod(length or 0 for length in source)
    for axis, length in enumerate(result):
        rest = result[axis:]
        if length is not None and length > 1 and None not in rest and math.prod(n or 0 for n in rest) == numbers:
            return axis if size % length == 0 else None
    return None


def _functions(value: ir.Value) -> Iterator[str]:
    """The functions of one number that read it, directly or in another shape; "" for all else that does."""
    for use in value.uses():
        if op_of(use.node).only_reshapes:
            yield from _functions(use.node.outputs[0])
        else:
            yield use.node.op_type if isinstance(activation_of(use.node), Curve) else ""


def _separate(graph: ir.Graph, parted: PartedLayer) -> None:
    new, ends = list[ir.Node](), list[ir.Value]()
    for number, (old, part) in enumerate(zip(parted.slices, parted.parts, strict=True)):
        value = parted.layer.inputs[0]
        for node, axis, size in zip((parted.layer, *parted.behind), parted.axes, parted.sizes, strict=True):
            # A number along the last of these axes stands for several channels where a Reshape has split them.
            own = np.arange(part.start * size // parted.sizes[-1], part.stop * size // parted.sizes[-1])
            inputs = [value, *_constants(graph, node, axis, own, number)]
            name = f"{node.name}/part{number}"
            copy = ir.node(node.op_type, inputs, node.attributes.copy(), domain=node.domain, name=name)
            copy.metadata_props.update(node.metadata_props)
            result, value = node.outputs[0], copy.outputs[0]
            dims = [len(own) if place == axis else length for place, length in enumerate(result.shape or ())]
            name_value(value, f"{result.name}/part{number}", ir.TensorType(ir.DataType.FLOAT), ir.Shape(dims))
            new.append(copy)
        assert value is not None
        value.shape = old.outputs[0].shape or value.shape
        ends.append(value)
    gone = [*parted.slices, *reversed(parted.behind), parted.layer]
    given = [old.outputs[0] for old in parted.slices]
    ir.convenience.replace_nodes_and_values(graph, parted.layer, gone, new, given, ends)


def _constants(graph: ir.Graph, node: ir.Node, axis: int, channels: IntArray, number: int) -> list[ir.Value | None]:
    """What a node reads besides its operand, for these channels along an axis of its result."""
    found: list[ir.Value | None] = []
    for index in range(1, len(node.inputs)):
        value = input_value(node, index)
        array = None if value is None else require_constant(node, index, "parameter")
        if value is None or array is None or array.size == 1:
            found.append(value)
            continue
        if node.op_type == "Reshape":
            at = np.arange(array.size) == axis
            array = np.where(at & (array > 0), len(channels), array)
        else:
            is_weight = index == 1 and Layer(node).is_weighted
            array = np.take(array, channels, output_axis(node) if is_weight else -1)
        found.append(initializer(graph, f"{value.name}/part{number}", array))
    return found
