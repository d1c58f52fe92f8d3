"""Which part of a float graph becomes integers, and which stays float: islands between integers, and the tail.

A layer of weights is integer, unless it is told to stay float. One without is integer where all that it reads is, or
where its result reaches a layer of weights through layers of integer form alone: so an island ends as early as it can.
What is only compared does not lead on so, and has to be integer by itself. What is computed of scores (`ends_float`) is
integer only where it leads to weights so. All else stays as it is; what of it leads to integers again is an island,
what leads to outputs alone the tail. What only integers take part in, such as tokens and the rows of a table that they
pick, is no island, though it stays a node: its codes are looked up (`qpipe.ops.lookup`).
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

import onnx_ir as ir

from qpipe.ir.graph.layers import Layer, group_layers
from qpipe.nodes import inner_graphs, reads
from qpipe.ops import Role
from qpipe.ops.condition import is_truth
from qpipe.ops.lookup import Origins


@dataclass
class Parts:
    """layers, islands, lookups, tail: each in topological order. order: of all layers together.

    begins: float values that integer layers read, the graph's inputs first.
    """

    layers: list[Layer] = field(default_factory=list)
    islands: list[Layer] = field(default_factory=list)
    lookups: list[Layer] = field(default_factory=list)
    tail: list[Layer] = field(default_factory=list)
    order: list[Layer] = field(default_factory=list)
    begins: list[ir.Value] = field(default_factory=list)


def split(graph: ir.Graph) -> Parts:
    """Of a normalized float graph."""
    parts = Parts(order=group_layers(graph))
    wanted, leading = _leading_to_weights(parts.order), _leading_on(parts.order)
    whole = {value for value in graph.inputs if value in wanted}
    floats, origins = list[Layer](), Origins()
    for layer in parts.order:
        # What would rather be float behind the last weights is none of their decoder where an island leads on.
        may_end = layer.output in leading or not layer.op.ends_float(layer.node)
        # What changes or moves what is looked up is a part of the look-up, whose codes are exact.
        is_computed = _has_form(layer) and not origins.are_looked_up(layer.output) and _asks_integers(layer, whole)
        if is_computed and (layer.output in wanted or (_is_whole(layer, whole) and may_end)):
            parts.layers.append(layer)
            whole.add(layer.output)
        else:
            floats.append(layer)
    read = {value for layer in parts.layers for value in layer.inputs}
    divide_floats(floats, read, parts)
    given = [*graph.inputs, *(value for layer in floats for node in layer.nodes for value in node.outputs)]
    parts.begins = [value for value in given if value in read]
    return parts


class Divided(Protocol):
    """What is told apart of the layers that stay: `Parts`, and the view of a QDQ graph."""

    islands: list[Layer]
    lookups: list[Layer]
    tail: list[Layer]


def divide_floats(floats: Iterable[Layer], read: Iterable[ir.Value], into: Divided) -> None:
    """Tell apart the layers that stay, in topological order. read: the values at which integers begin."""
    needed, origins = set(read), Origins()
    # What real numbers are read of; of the others nothing but their codes.
    real: set[ir.Value] = set()
    found: dict[str, list[Layer]] = {"islands": [], "lookups": [], "tail": []}
    for layer in reversed(list(floats)):
        given = [value for node in layer.nodes for value in node.outputs]
        kind = "tail"
        if any(value in needed for value in given):
            kind = "lookups" if _is_looked_up(layer, real, origins) else "islands"
            needed.update(all_reads(layer))
        if kind != "lookups":
            real.update(all_reads(layer))
        found[kind].append(layer)
    into.islands, into.lookups, into.tail = (found[kind][::-1] for kind in ("islands", "lookups", "tail"))


def _is_looked_up(layer: Layer, real: Container[ir.Value], origins: Origins) -> bool:
    """Whether it gives integers of integers alone, or floats of which only the codes are ever wanted."""
    if all(origins.is_integer(value) for node in layer.nodes for value in node.outputs):
        return True
    value = layer.output
    return origins.are_looked_up(value) and value not in real and not value.is_graph_output()


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
            wanted.update(layer.op.passed(layer.node))
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


def _asks_integers(layer: Layer, whole: set[ir.Value]) -> bool:
    """Whether all that it only compares has codes anyway: 8 bits of another number could tell another order."""
    passed = layer.op.passed(layer.node)
    asked = [value for value in layer.inputs if value not in passed]
    return all(value in whole or is_truth(value) for value in asked)


def _is_whole(layer: Layer, whole: set[ir.Value]) -> bool:
    return bool(layer.inputs) and all(value in whole for value in layer.inputs)
