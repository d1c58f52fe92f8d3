"""Residual blocks of a graph: an Add whose operands meet again at a common dominator.

A value dominates another one if every path from the graph's inputs to it goes through that value. Immediate dominators
of a graph in topological order are what the dominator chains of a node's inputs first have in common (Cooper, Harvey
and Kennedy 2001, "A Simple, Fast Dominance Algorithm"; without cycles one pass suffices). The branch with the longer
chain of convolutions is the main path, the other one is the skip; of equally long ones, that of 1×1 convolutions.

Constants, and what computes only with them (a weight's quantizer), are no part of any path. Quantizers of activations
are: a path goes through them, so one finder serves the float graph and the QDQ graph.
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from qpipe.ir.graph.block_names import name_blocks
from qpipe.ir.graph.layer_options import matches
from qpipe.ir.graph.layers import Layer
from qpipe.ir.quantized.qdq import data_input
from qpipe.nodes import describe, static_shape
from qpipe.ops import op_of
from qpipe.ops.quantizer_parts import dequantizes, is_border, may_change_codes


@dataclass(frozen=True)
class ResidualBlock:
    """Both paths start at `start` and end in the Add: `main` is the operand behind the weights, `skip` the other.

    main_nodes, skip_nodes: of each path, in topological order, with the quantizers of activations on it and without
    those of weights. In a QDQ graph `start` is the dequantized output, before a requantization of one path alone.
    """

    name: str
    add: ir.Node
    start: ir.Value
    main: ir.Value
    skip: ir.Value
    main_nodes: tuple[ir.Node, ...]
    skip_nodes: tuple[ir.Node, ...]

    @property
    def layers(self) -> tuple[ir.Node, ...]:
        """The nodes with weights on the main path, in order."""
        return weighted(self.main_nodes)

    @property
    def obstacle(self) -> str | None:
        """Why its skip can't be stripped, in words that follow the block's name; None where it can."""
        for node in self.skip_nodes:
            if not _is_skip(node):
                return (
                    f"its skip has {describe(node)}, expected nothing but Slice, Pad, pooling, 1x1 Conv and "
                    "BatchNormalization"
                )
        if self.main.is_graph_output():
            return f"its main path ends in '{self.main.name}', a graph output, expected that only the Add reads it"
        others = [node for node in self.main.consumers() if node is not self.add]
        if others:
            return f"{describe(others[0])} reads the end of its main path too, expected that only the Add does"
        return self._shape_obstacle()

    def matches(self, pattern: str) -> bool:
        """Whether the pattern (`*`, `?`, `[a-z]`) matches the name, or what follows a `/` in it."""
        return matches(self.name, pattern)

    def _shape_obstacle(self) -> str | None:
        """The main path must be as large as the sum: an operand that the Add broadcasts can't stand for it."""
        main = static_shape(self.main)
        for other in (static_shape(self.add.outputs[0]), static_shape(self.skip)):
            if main is None or other is None:
                continue
            aligned = zip(main[::-1], other[::-1], strict=False)
            if len(other) > len(main) or any(b not in {a, None, 1} and a is not None for a, b in aligned):
                return (
                    f"its main path gives {_text(main)}, expected {_text(other)}, which is what the Add's readers get"
                )
        return None


def find_blocks(graph: ir.Graph) -> list[ResidualBlock]:
    """All residual blocks of a graph that is sorted, float or QDQ, in topological order of their Adds.

    Where both branches have equally long chains of convolutions, the skip is that one which has nothing but what a skip
    can have; where both do or neither does, that is no residual block. Nor is an Add of a constant, nor a Concat. A
    block that can't be stripped is found all the same; its `obstacle` says why.
    """
    dominators = _Dominators(graph)
    found = [block for node in graph if (block := _read_block(node, dominators)) is not None]
    names = name_blocks(graph, [((*weighted(b.main_nodes), *weighted(b.skip_nodes)), b.layers, b.add) for b in found])
    return [
        ResidualBlock(name, b.add, b.start, b.main, b.skip, b.main_nodes, b.skip_nodes)
        for name, b in zip(names, found, strict=True)
    ]


def weighted(nodes: tuple[ir.Node, ...]) -> tuple[ir.Node, ...]:
    """Those of the nodes that multiply by weights."""
    return tuple(node for node in nodes if Layer(node).is_weighted)


def is_quantizer(node: ir.Node) -> bool:
    """Whether it is a part of a quantizer: QuantizeLinear, Clip and table of its integers, DequantizeLinear."""
    while may_change_codes(node):
        source = data_input(node)
        producer = source.producer() if source is not None else None
        if producer is None or dequantizes(producer):
            return False
        node = producer
    return is_border(node)


class _Dominators:
    """The immediate dominator of every value that depends on the graph's inputs."""

    def __init__(self, graph: ir.Graph) -> None:
        self.position = {node: index for index, node in enumerate(graph)}
        self._above: dict[ir.Value, ir.Value | None] = dict.fromkeys(graph.inputs)
        self._depth: dict[ir.Value | None, int] = {None: 0, **dict.fromkeys(graph.inputs, 1)}
        for node in graph:
            data = self.data(node)
            above: ir.Value | None = data[0] if data else None
            for value in data[1:]:
                above = self.common(above, value)
            for value in node.outputs if data else ():
                self._above[value] = above
                self._depth[value] = self._depth[above] + 1

    def data(self, node: ir.Node) -> list[ir.Value]:
        """The node's inputs that depend on the graph's; of a node seen before, or being seen."""
        return [value for value in node.inputs if value is not None and value in self._above]

    def common(self, a: ir.Value | None, b: ir.Value | None) -> ir.Value | None:
        """The nearest value that dominates both, which may be one of them; None where there is none."""
        while a is not b:
            if self._depth[a] >= self._depth[b]:
                assert a is not None
                a = self._above[a]
            else:
                assert b is not None
                b = self._above[b]
        return a

    def between(self, start: ir.Value, end: ir.Value) -> tuple[ir.Node, ...]:
        """All nodes on the paths from one value to another one that it dominates, in topological order."""
        found: set[ir.Node] = set()
        stack = [end]
        while stack:
            value = stack.pop()
            node = value.producer()
            if value is not start and node is not None and node not in found:
                found.add(node)
                stack.extend(self.data(node))
        return tuple(sorted(found, key=self.position.__getitem__))


def _read_block(node: ir.Node, dominators: _Dominators) -> ResidualBlock | None:
    """The block that ends in this node, without a name; None where it is no residual Add."""
    operands = dominators.data(node)
    if not op_of(node).is_sum or len(operands) != 2:
        return None
    start = dominators.common(*operands)
    if start is None:
        return None
    paths = [(operand, dominators.between(start, operand)) for operand in operands]
    lengths = [_longest_chain(path, operand, dominators) for operand, path in paths]
    # Of two equally long chains, a projection beside one larger convolution, say, that which can be a skip is one.
    first, second = ((length, not all(map(_is_skip, path))) for length, (_, path) in zip(lengths, paths, strict=True))
    if first == second or not max(lengths):
        return None
    (main, main_nodes), (skip, skip_nodes) = paths if first > second else paths[::-1]
    return ResidualBlock("", node, start, main, skip, main_nodes, skip_nodes)


def _longest_chain(path: tuple[ir.Node, ...], end: ir.Value, dominators: _Dominators) -> int:
    """How many weights follow one another on the way to `end`, at most."""
    lengths: dict[ir.Value, int] = {}
    for node in path:
        before = max((lengths.get(value, 0) for value in dominators.data(node)), default=0)
        lengths.update(dict.fromkeys(node.outputs, before + len(weighted((node,)))))
    return lengths.get(end, 0)


def _is_skip(node: ir.Node) -> bool:
    return is_quantizer(node) or op_of(node).fits_skip(node)


def _text(shape: tuple[int | None, ...]) -> str:
    return f"[{', '.join('?' if size is None else str(size) for size in shape)}]"
