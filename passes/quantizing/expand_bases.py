"""Turn the main path of each residual block into five binary bases side by side, whose sum stands in its place.

    y = skip(x) + main(x)        becomes        y = skip(x) + sum_k lambda_k B_k(x),        k = 1 .. 5

Each base B_k is a whole main path, Conv -> BN -> Conv -> BN, with weights and BatchNormalizations of its own; its last
gamma holds lambda_k, which starts at 1 / 5 (the last beta as well, so that their sum starts as the block's). No ReLU is
left before a Conv of a block, as in `shortcut-every-convolution`, which says which. A projection stays as it is.

What the paper leaves open is what the bases start from. Here, in each Conv, from what the signs of those before it left
over of the pretrained weights, so that the five together are near them:

    w_1 = w,   w_(k+1) = w_k - mean |w_k| sign(w_k)        (mean over each output channel; see `qpipe.formats.binary`)

The bases' outputs have one common grid, so narrow that every partial sum lies on it, too, in 8 bits: the Adds of the
chain ((B_1 + B_2) + B_3) + ... are exact, and the sum with the skip is rounded once (see `base_grid` in
`qpipe.formats.binary`).
Block names with their binary layers and those Adds are left in the metadata `qpipe.binary`.

Source: Zhuang et al. 2019, *Structured Binary Neural Networks* (GroupNet), section 3.2, group-wise decomposition with
one residual block a group. The function changes, and is trained anew.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from passes.skips.shortcut_every_convolution import make_binary
from qpipe.formats.binary import BASES, magnitudes, sign_codes
from qpipe.ir.graph.binary_blocks import BinaryBlock
from qpipe.ir.graph.layers import Layer
from qpipe.ir.graph.residual import ResidualBlock
from qpipe.nodes import initializer, name_value, require_constant, set_constant_input
from qpipe.ops.weight_layout import to_rows, to_weight

_FLOAT = ir.TensorType(ir.DataType.FLOAT)


@dataclass(frozen=True, kw_only=True)
class ExpandBases(ir.passes.InPlacePass):
    """Expand every residual block of a normalized float network but those that hold a first or a last layer."""

    name: ClassVar[str] = "expand-bases"

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Expand, or raise LoweringError with a block's name before anything is changed; once done, nothing is."""
        return make_binary(model, _expand)


def _expand(graph: ir.Graph, block: ResidualBlock) -> BinaryBlock:
    """The nodes of the main path are the first base."""
    nodes = list(block.main_nodes)
    last = nodes[-1]
    for index, what in ((1, "scale"), (2, "bias")):
        set_constant_input(last, index, require_constant(last, index, what) / np.float32(BASES))
    bases = [nodes]
    for number in range(2, BASES + 1):
        bases.append(_copy(graph, block, bases[-1], number))
    total, sums = block.main, []
    for number, base in enumerate(bases[1:], start=2):
        sums.append(_add(graph, block, total, base[-1].outputs[0], number))
        total = sums[-1].outputs[0]
    block.add.replace_input_with(block.add.inputs.index(block.main), total)
    layers = [Layer(node).name for base in bases for node in base if node.op_type == "Conv"]
    return BinaryBlock(block.name, tuple(layers), str(block.add.name), tuple(str(add.name) for add in sums))


def _copy(graph: ir.Graph, block: ResidualBlock, before: list[ir.Node], number: int) -> list[ir.Node]:
    """A base of the same nodes as the one before, with what that leaves over of its weights."""
    value, copies = block.start, []
    for first, node in zip(block.main_nodes, before, strict=True):
        name = f"{first.name}_base{number}"
        inputs: list[ir.Value | None] = [value]
        for index, constant in enumerate(node.inputs[1:], start=1):
            array = None if constant is None else require_constant(node, index, "constant")
            if array is not None and node.op_type == "Conv" and index == 1:
                array = _left_over(node, array.astype(np.float32))
            inputs.append(None if array is None else initializer(graph, f"{name}_{index}", np.array(array)))
        copies.append(ir.Node("", node.op_type, inputs, node.attributes.values(), name=name))
        result, value = node.outputs[0], copies[-1].outputs[0]
        name_value(value, f"{name}_y", _FLOAT, result.shape)
    graph.insert_after(before[-1], copies)
    return copies


def _left_over(node: ir.Node, weight: np.ndarray) -> np.ndarray:
    """`w - mean |w| sign(w)`, per output channel."""
    rows = to_rows(node, weight)
    left = (rows - magnitudes(rows)[:, None] * sign_codes(rows)).astype(np.float32)
    return np.ascontiguousarray(to_weight(node, left, weight.shape))


def _add(graph: ir.Graph, block: ResidualBlock, total: ir.Value, base: ir.Value, number: int) -> ir.Node:
    add = ir.node("Add", [total, base], name=f"{block.add.name}_bases{number}")
    name_value(add.outputs[0], f"{block.add.outputs[0].name}_bases{number}", _FLOAT, base.shape)
    graph.insert_before(block.add, add)
    return add
