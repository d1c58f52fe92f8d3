"""What a network does to its input before anything else: casts, a transposition, factors and offsets.

It stays in the graph, whose input is what its user feeds. It says what that is: of bytes, or with a factor that brings
0..255 into the range that networks are trained in, pixels from 0 to 255; with a transposition, channels last.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import onnx_ir as ir

from qpipe.nodes import constant_array, ints_attribute
from qpipe.ops.constant_affine import OP_TYPES

_PASSED: Final = frozenset({"Cast", "Identity", "Transpose"})
# A network that starts with more is not one that starts with preprocessing.
_LONGEST: Final = 16
# Halfway, by factors, between networks that want 0..1 and those that want 0..255.
_SMALL_FACTOR: Final = 1 / 16
_TO_CHANNELS_FIRST: Final = (0, 3, 1, 2)


@dataclass(frozen=True)
class Prologue:
    """Its nodes, from the input on; whether pixels go in as 0..255, and whether their channels are last."""

    nodes: tuple[ir.Node, ...]
    takes_bytes: bool
    channels_last: bool

    @property
    def affine(self) -> tuple[ir.Node, ...]:
        """Those that compute."""
        return tuple(node for node in self.nodes if node.op_type in OP_TYPES)


def find_prologue(graph: ir.Graph) -> Prologue | None:
    """The prologue of the one input, an image; None where there is none, or more than one path through it."""
    if len(graph.inputs) != 1 or graph.inputs[0].shape is None or len(graph.inputs[0].shape) != 4:
        return None
    value = graph.inputs[0]
    is_integer = value.dtype is not None and value.dtype.is_integer()
    nodes: list[ir.Node] = []
    factor, is_last = 1.0, False
    while len(nodes) < _LONGEST and len(readers := list(value.consumers())) == 1 and not value.is_graph_output():
        (node,) = readers
        if node.graph is not graph or not _belongs(node, value):
            break
        factor *= _largest_factor(node)
        is_last |= node.op_type == "Transpose" and ints_attribute(node, "perm", ()) == _TO_CHANNELS_FIRST
        nodes.append(node)
        value = node.outputs[0]
    takes_bytes = is_integer or factor <= _SMALL_FACTOR
    return Prologue(tuple(nodes), takes_bytes, is_last) if nodes else None


def _belongs(node: ir.Node, value: ir.Value) -> bool:
    if node.op_type not in _PASSED | OP_TYPES or node.domain != "":
        return False
    return [v for v in node.inputs if v is not None and constant_array(v) is None] == [value]


def _largest_factor(node: ir.Node) -> float:
    """The largest size of a Mul's or a Div's factors; 1 of another node."""
    constants = [array for value in node.inputs if (array := constant_array(value)) is not None and array.size]
    if node.op_type not in {"Mul", "Div"} or not constants:
        return 1.0
    sizes = np.abs(constants[0].astype(np.float64))
    with np.errstate(divide="ignore"):
        return float(sizes.max() if node.op_type == "Mul" else 1 / sizes.min())
