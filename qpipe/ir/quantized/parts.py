"""Which part of a float graph becomes integers, and which stays float: islands between integers, and the tail.

A layer of weights is always integer. One without is integer where all that it reads is, or where its result reaches a
layer of weights through layers of integer form alone: so an island ends as early as it can. What is computed of scores
(`ends_float`) is integer only where it leads to weights so. All else stays float; what of it leads to integers again is
an island, what leads to outputs alone the tail.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import onnx_ir as ir

from qpipe.ir.graph.layers import Layer, group_layers
from qpipe.nodes import inner_graphs, reads
from qpipe.ops import Role


@dataclass
class Parts:
    """layers, islands, tail: each in topological order. order: of all layers together.

    begins: float values that integer layers read, the graph's inputs first.
    """

    layers: list[Layer] = field(default_factory=list)
    islands: list[Layer] = field(default_factory=list)
    tail: list[Layer] = field(default_factory=list)
    order: list[Layer] = field(default_factory=list)
    begins: list[ir.Value] = field(default_factory=list)


def split(graph: ir.Graph) -> Parts:
    """Of a normalized float graph."""
    parts = Parts(order=group_layers(graph))
    wanted, leading = _leading_to_weights(parts.order), _leading_on(parts.order)
    whole = {value for value in graph.inputs if value in wanted}
    floats: list[Layer] = []
    for layer in parts.order:
        # What would rather be float behind the last weights is none of their decoder where an island leads on.
        may_end = layer.output in leading or not layer.op.ends_float(layer.node)
        if _has_form(layer) and (layer.output in wanted or (_is_whole(layer, whole) and may_end)):
            parts.layers.append(layer)
            whole.add(layer.output)
        else:
            floats.append(layer)
    read = {value for layer in parts.layers for value in layer.inputs}
    parts.islands, parts.tail = divide_floats(floats, read)
    given = [*graph.inputs, *(value for layer in parts.islands for node in layer.nodes for value in node.outputs)]
    parts.begins = [value for value in given if value in read]
    return parts


def divide_floats(floats: Iterable[Layer], read: Iterable[ir.Value]) -> tuple[list[Layer], list[Layer]]:
    """Float layers, in topological order, as islands and tail. read: the values at which integers begin."""
    needed = set(read)
    islands: list[Layer] = []
    tail: list[Layer] = []
    for layer in reversed(list(floats)):
        leads_on = any(value in needed for node in layer.nodes for value in node.outputs)
        (islands if leads_on else tail).append(layer)
        if leads_on:
            needed.update(all_reads(layer))
    return islands[::-1], tail[::-1]


def all_reads(layer: Layer) -> Iterator[ir.Value]:
    """What the nodes of a layer read, and what their branches and loop bodies take from outside."""
    return (value for node in layer.nodes for value in reads(node))


def nodes_within(layers: Iterable[Layer]) -> set[ir.Node]:
    """The layers' nodes, and those of their branches and loop bodies."""
    nodes = {node for layer in layers for node in layer.nodes}
    graphs = [graph for node in nodes for graph in inner_graphs(node)]
    return nodes | {inner for graph in graphs for inner in ir.traversal.RecursiveGraphIterator(graph)}


def _leading_to_weights(layers: list[Layer]) -> set[ir.Value]:
    """What reaches a layer of weights through layers of integer form alone."""
    wanted: set[ir.Value] = set()
    for layer in reversed(layers):
        if _has_form(layer) and (layer.role is Role.COMPUTE or layer.output in wanted):
            wanted.update(layer.inputs)
            # A layer of weights is integer, whatever reads it.
            wanted.update((layer.output,) if layer.role is Role.COMPUTE else ())
    return wanted


def _leading_on(layers: list[Layer]) -> set[ir.Value]:
    """What reaches a layer of weights through anything."""
    leading: set[ir.Value] = set()
    for layer in reversed(layers):
        is_weighted = _has_form(layer) and layer.role is Role.COMPUTE
        if is_weighted or any(value in leading for node in layer.nodes for value in node.outputs):
            leading.update(all_reads(layer))
    return leading


def _has_form(layer: Layer) -> bool:
    """Whether it has an integer form, on numbers that can be quantized: sizes and indices are none."""
    types = {value.dtype for value in layer.inputs}
    return layer.role is not Role.NONE and types <= {ir.DataType.FLOAT, None}


def _is_whole(layer: Layer, whole: set[ir.Value]) -> bool:
    return bool(layer.inputs) and all(value in whole for value in layer.inputs)
