"""Tensors that may share one factor: x' = x / r for all of them, which the layers around them take and give back.

What is homogeneous, f(x / r) = f(x) / r for any r > 0 (Relu, LeakyRelu, pools, sums, what moves values), passes a
factor on. So the tensors between some layers with weights have a common one, by which those that write them divide
their weights and biases, and those that read them multiply theirs. The upper bound of a Clip from 0 (ReLU6) is a number
of the tensor that it gives, and takes the factor too. What is linear in each of its operands (a product of two, a
quotient in its dividend) passes on the factor of one that has one, and all others stay: the numbers that a gate
multiplies, the values that attention weighs. A curve becomes a table, of `f(r x) / s` for any r and s: it reads with
one factor and writes with another, and is a layer of its own here where it belongs to the one before it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np
import onnx_ir as ir

from qpipe.ir.graph.layers import Layer
from qpipe.ir.graph.shared_channels import divide_outputs
from qpipe.nodes import input_value, require_constant, set_constant_input
from qpipe.ops import Curve, CurveOp, Rectifier, Role, activation_of

UPPER: Final = 2
"""The input of a Clip that is its upper bound."""


@dataclass
class ScaleGroup:
    """values: in topological order. writers, readers: layers with weights, normalizations and curves that stand alone.

    inputs: of the network among the values. constants: of sums among them, each a node and the index of its input.
    clips: those that bound a value.
    """

    inputs: list[ir.Value] = field(default_factory=list)
    values: list[ir.Value] = field(default_factory=list)
    writers: list[Layer] = field(default_factory=list)
    readers: list[Layer] = field(default_factory=list)
    constants: list[tuple[ir.Node, int]] = field(default_factory=list)
    clips: list[ir.Node] = field(default_factory=list)

    @property
    def has_ends(self) -> bool:
        """Whether values may end at certain numbers: at a bound, or where a curve saturates."""
        return bool(self.clips) or any(isinstance(layer.op, CurveOp) for layer in self.writers)

    def divide(self, factor: float) -> None:
        """Divide all values by the factor; the network stays the same function."""
        for layer in self.writers:
            if layer.is_weighted:
                divide_outputs(layer, np.full(_channels(layer), factor))
                continue
            if isinstance(layer.op, CurveOp):
                layer.op.scale_result(layer.node, 1 / factor)
                continue
            for index in (1, 2):
                if input_value(layer.node, index) is not None:
                    _multiply(layer.node, index, 1 / factor)
        for node, index in (*self.constants, *((clip, UPPER) for clip in self.clips)):
            _multiply(node, index, 1 / factor)
        for layer in self.readers:
            if layer.op.is_scale_invariant or isinstance(layer.op, CurveOp):
                layer.op.scale_operand(layer.node, 1 / factor)
                continue
            _multiply(layer.node, 1, factor)
            if layer.is_batch_norm:
                _multiply(layer.node, 3, 1 / factor)


def scale_groups(layers: list[Layer]) -> list[ScaleGroup]:
    """All groups of a float graph, in the order of their first values; what ends elsewhere than in weights is none."""
    return [group for group in _groups(layers) if group.writers and not group.inputs]


def input_groups(layers: list[Layer]) -> list[ScaleGroup]:
    """Those that an input of the network is among, which whoever divides them has divided as well."""
    return [group for group in _groups(layers) if group.inputs]


def _groups(layers: list[Layer]) -> list[ScaleGroup]:
    roots: dict[ir.Value, ir.Value] = {}
    fixed: set[ir.Value] = set()
    products: list[Layer] = []
    layers = list(_curves_apart(layers))
    readers: dict[ir.Value, set[ir.Node]] = {}

    def root(value: ir.Value) -> ir.Value:
        while (above := roots.setdefault(value, value)) is not value:
            value = above
        return value

    for layer in layers:
        for value in (*layer.inputs, layer.output):
            root(value)
        for value in layer.inputs:
            readers.setdefault(value, set()).update(layer.nodes)
        if not _commutes(layer) or layer.output.is_graph_output():
            fixed.add(layer.output)
        if _takes_part(layer):
            continue
        if layer.role is not Role.NONE and layer.op.linear_in(layer.node):
            products.append(layer)
            continue
        if layer.role is Role.NONE or not (layer.op.is_homogeneous(layer.node) or _bounded(layer) is layer.node):
            fixed.update(layer.inputs)
            fixed.add(layer.output)
            continue
        passed = layer.op.passed(layer.node)
        for value in passed:
            roots[root(value)] = root(layer.output)
        fixed.update(value for value in layer.inputs if value not in passed)
    # What floats give, as a look-up of tokens does, stays.
    given = {layer.output for layer in layers}
    fixed.update(value for value in list(roots) if value.producer() is not None and value not in given)
    # What another node reads, in a branch say, can't follow.
    fixed.update(v for v in list(roots) if not readers.get(v, set()) >= {node for node, _ in v.uses()})
    stuck = {root(value) for value in fixed}
    curves = [layer.output for layer in layers if _is_curve(layer)]
    for layer in products:
        passing = (value for value in layer.op.linear_in(layer.node) if layer.inputs.count(value) == 1)
        free = [value for value in passing if root(value) not in stuck]
        # What a curve gives, a gate, mostly fills its grid as it is.
        given = {root(value) for value in curves}
        free.sort(key=lambda value: root(value) in given)
        others = [value for value in layer.inputs if value not in free[:1]]
        if not free or root(layer.output) in stuck or root(free[0]) in map(root, others):
            stuck.update(map(root, (*layer.inputs, layer.output)))
            continue
        stuck.update(map(root, others))
        roots[root(free[0])] = root(layer.output)
    groups: dict[ir.Value, ScaleGroup] = {}
    for layer in layers:
        takes_part = _takes_part(layer)
        for value in layer.inputs:
            if root(value) in stuck:
                continue
            group = groups.setdefault(root(value), ScaleGroup())
            if takes_part:
                group.readers.append(layer)
            if value.producer() is None and value not in group.inputs:
                group.inputs.append(value)
        if root(layer.output) not in stuck:
            group = groups.setdefault(root(layer.output), ScaleGroup())
            group.values.append(layer.output)
            if takes_part:
                group.writers.append(layer)
            else:
                group.constants += [(layer.node, index) for index in layer.op.constants_in_unit(layer.node)]
            if (clip := _bounded(layer)) is not None:
                group.clips.append(clip)
    return [group for group in groups.values() if group.readers]


def _takes_part(layer: Layer) -> bool:
    """Whether it has parameters that take a factor of what it reads, and one of what it gives."""
    if layer.is_weighted or layer.is_batch_norm or _is_curve(layer):
        return True
    return layer.op.is_scale_invariant and layer.role is not Role.NONE


def _is_curve(layer: Layer) -> bool:
    """Whether it is a curve alone whose table takes any factor of what it reads, and of what it gives."""
    function = None if layer.role is Role.NONE else activation_of(layer.node)
    return isinstance(function, Curve) and not function.is_homogeneous


def _curves_apart(layers: list[Layer]) -> Iterator[Layer]:
    """The layers, each whose activation is such a curve as two."""
    for layer in layers:
        curve = None if layer.activation is None else Layer(layer.activation)
        if curve is None or not _is_curve(curve):
            yield layer
        else:
            yield replace(layer, activation=None)
            yield curve


def _commutes(layer: Layer) -> bool:
    """Whether a positive factor before its activation is one behind it, where its bound takes the factor too."""
    return layer.function is None or layer.function.is_homogeneous or _bounded(layer) is not None


def _bounded(layer: Layer) -> ir.Node | None:
    """The layer's Clip from 0 to a bound, be it its activation or the layer itself."""
    node = layer.activation or layer.node
    function = activation_of(node)
    return node if isinstance(function, Rectifier) and not function.is_homogeneous else None


def _channels(layer: Layer) -> int:
    weight = require_constant(layer.node, 1, "weight")
    return int(weight.shape[layer.op.output_axis(layer.node)])  # type: ignore[attr-defined]


def _multiply(node: ir.Node, index: int, factor: float) -> None:
    constant = require_constant(node, index, "parameter")
    set_constant_input(node, index, (constant.astype(np.float64) * factor).astype(constant.dtype))
