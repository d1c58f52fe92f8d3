"""Which factors a graph's tensors may have, as its ops say it (`qpipe.ops.factors`), and what takes them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from qpipe.arith.namespace import AnyArray, Float64Array, IntArray
from qpipe.ir.graph.layers import Layer
from qpipe.nodes import input_value, rank, reads, require_constant, set_constant_input
from qpipe.ops import Role, op_of
from qpipe.ops.factors import Factors, Parameter
from qpipe.ops.weight_layout import to_rows, to_weight

ROUNDED = frozenset({Role.COMPUTE, Role.JOIN, Role.POOL})
"""What a quantizer follows; what carries integers has the numbers of what it reads."""


@dataclass
class SharedFactors:
    """Factors whose numbers lie side by side in some tensors, so that these tensors' steps are shared.

    factors: in order, `[C]`. tensors: each with the factors of its numbers, in an array that broadcasts to it.
    weights: the parameters whose channels share a step as well.
    """

    factors: IntArray
    tensors: dict[ir.Value, IntArray] = field(default_factory=dict)
    weights: list[Parameter] = field(default_factory=list)

    @property
    def is_free(self) -> bool:
        """Whether a factor costs nothing: no weight shares a step among its channels, or another tensor takes it."""
        return not self.weights or any((factors < 0).any() for factors in self.tensors.values())

    @property
    def is_normalized(self) -> bool:
        """Whether all tensors are what a normalization gives, whose parameters take any factor."""
        nodes = [value.producer() for value in self.tensors]
        return all(node is not None and op_of(node).asks_wide for node in nodes)

    def places(self, factors: IntArray) -> IntArray:
        """Where factors, without their signs, stand in `self.factors`."""
        return np.searchsorted(self.factors, np.abs(factors))


@dataclass
class FactorGraph:
    """All factors of a graph that are free, and the parameters that take them."""

    shared: list[SharedFactors]
    parameters: list[Parameter]

    def multiply(self, ratios: Mapping[int, float]) -> None:
        """Divide the numbers of each of these factors by its ratio; exact of powers of two."""
        for parameter in self.parameters:
            channels = parameter.channels
            along = np.array([ratios.get(abs(int(i)), 1.0) ** np.sign(i) for i in channels.reshape(-1)])
            if np.all(along == 1):
                continue
            constant = require_constant(parameter.node, parameter.index, "parameter")
            spread = parameter.spread((along**parameter.power).reshape(channels.shape))
            set_constant_input(parameter.node, parameter.index, (constant * spread).astype(constant.dtype))


def factor_graph(graph: ir.Graph, layers: list[Layer]) -> FactorGraph:
    """Of a float graph and its layers: all factors that are not 1 of necessity."""
    book, known = _ask(graph)
    tensors = {layer.output: book.roots(known[layer.output]) for layer in layers if layer.role in ROUNDED}
    parameters = [
        Parameter(each.node, each.index, book.roots(each.channels), each.power, each.spread, each.is_weight)
        for each in book.parameters
    ]
    return FactorGraph(list(_side_by_side(tensors, parameters)), [each for each in parameters if each.channels.any()])


def largest_read(parameter: Parameter) -> Float64Array:
    """The largest magnitude among the weights that read each of a parameter's channels, `[C]`."""
    weight = np.abs(require_constant(parameter.node, parameter.index, "weight")).astype(np.float64)
    largest = np.zeros(parameter.channels.size)
    places = parameter.spread(np.arange(parameter.channels.size))
    np.maximum.at(largest, np.broadcast_to(places, weight.shape), weight)
    return largest


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


def _ask(graph: ir.Graph) -> tuple[Factors, dict[ir.Value, IntArray]]:
    """What each op says, from the first node to the last; every value's factors."""
    book = Factors()
    known: dict[ir.Value, IntArray] = {value: _none(value) for value in graph.inputs}
    for node in graph:
        layer = Layer(node)
        operands = layer.inputs
        # What else it reads, in a branch say, can't follow.
        others = {value for value in reads(node) if value in known} - set(operands)
        given = [known.get(value, _none(value)) for value in operands]
        book.fix(*(known[value] for value in others))
        ranks = [rank(value) for value in (*operands, *node.outputs[:1])]
        if layer.role is Role.NONE or None in ranks or any(x.ndim != n for x, n in zip(given, ranks, strict=False)):
            book.fix(*given)
            known |= {value: _none(value) for value in node.outputs}
            continue
        known |= {value: _none(value) for value in node.outputs[1:]}
        known[node.outputs[0]] = layer.op.factors(node, given, book)
    for value in graph.outputs:
        if value in known:
            book.fix(known[value])
    return book, known


def _none(value: ir.Value) -> IntArray:
    return np.zeros([1] * (rank(value) or 0), np.int64)


def _side_by_side(tensors: Mapping[ir.Value, IntArray], parameters: list[Parameter]) -> Iterator[SharedFactors]:
    """Factors by the tensors and weights that they meet in, where none of these has numbers that stay."""
    weights = [each for each in parameters if each.is_weight]
    meetings = [np.abs(each.reshape(-1)) for each in (*tensors.values(), *(w.channels for w in weights))]
    book = Factors()
    met = np.concatenate([[0], book.new(max((int(each.max(initial=0)) for each in meetings), default=0))])
    for factors in meetings:
        book.over(met[factors], [0])
    roots = np.abs(book.roots(met))
    groups = {int(root): SharedFactors(np.flatnonzero(roots == root)) for root in np.unique(roots) if root}
    for value, factors in tensors.items():
        if (root := int(roots[abs(int(factors.flat[0]))])) in groups:
            groups[root].tensors[value] = factors
    for parameter in weights:
        if (root := int(roots[abs(int(parameter.channels.flat[0]))])) in groups:
            groups[root].weights.append(parameter)
    yield from (group for group in groups.values() if group.tensors)
