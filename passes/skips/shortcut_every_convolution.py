"""Give every convolution of a residual block a shortcut of its own, and take the ReLUs out of the stream.

    x -> Conv -> BN -> Relu -> Conv -> BN -> Add(., skip) -> Relu       becomes
    x -> Conv -> BN -> Add(., skip) = s -> Conv -> BN -> Add(., s)

so that what a sign in front of a Conv throws away is still in the stream, which carries integers of more bits. The sum
behind the first Conv whose output has the skip's shape takes the block's own skip, be it the block's input itself or
a projection; Convs behind it take the sum before them, Convs before it their own input, where the shape allows (of a
bottleneck's first there is none). No ReLU is left before a Conv of a block: a sign of what is never negative says
nothing. That is the ReLUs between the Convs, those behind the Adds, and that of the stem, through its pooling. What
only the head reads, the last block's ReLU, stays. A projection is no part of this: it stays as precise as it is.

The block's names, with its binary layers, are left in the metadata `qpipe.binary`, for `insert-quantizers` and for
training. Source: Liu et al. 2018, *Bi-Real Net*, section 3.1 and figure 3. The function changes, and is trained anew.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from passes.rewrites.remove_dead_code import RemoveDeadCode
from qpipe.errors import LoweringError
from qpipe.ir.graph.binary_blocks import BinaryBlock, binary_blocks, write_binary_blocks
from qpipe.ir.graph.layers import Layer
from qpipe.ir.graph.residual import ResidualBlock, find_blocks
from qpipe.ir.quantized.bypass import replace_value
from qpipe.ir.quantized.plan import plan_quantization
from qpipe.nodes import describe, name_value, static_shape
from qpipe.ops import Role, activation_of

_ON_MAIN_PATH = frozenset({"Conv", "BatchNormalization", "Relu", "Clip"})


@dataclass(frozen=True, kw_only=True)
class ShortcutEveryConvolution(ir.passes.InPlacePass):
    """Rewrite every residual block of a normalized float network but those that hold a first or a last layer."""

    name: ClassVar[str] = "shortcut-every-convolution"

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rewrite, or raise LoweringError with a block's name before anything is changed; once done, nothing is."""
        return make_binary(model, _shortcut)


def make_binary(model: ir.Model, rewrite: Callable[[ir.Graph, ResidualBlock], BinaryBlock]) -> ir.passes.PassResult:
    """Take the activations out of the inner blocks, rewrite these and note down what they are; once done, nothing is.

    LoweringError with a block's name, before anything is changed.
    """
    if binary_blocks(model):
        return ir.passes.PassResult(model, False)
    graph = model.graph
    inner = _inner_blocks(graph)
    for block in inner:
        _remove_activations(graph, block)
    # Names don't hang on the activations that went; values do.
    names = {block.name for block in inner}
    found = [rewrite(graph, block) for block in find_blocks(graph) if block.name in names]
    graph.sort()
    RemoveDeadCode()(model)
    ir.passes.common.NameFixPass()(model)
    write_binary_blocks(model, found)
    return ir.passes.PassResult(model, True)


def _inner_blocks(graph: ir.Graph) -> list[ResidualBlock]:
    """The blocks that may become binary, checked; LoweringError that names what can't be, or where there are none."""
    edges = plan_quantization(graph).edges
    blocks = [block for block in find_blocks(graph) if edges.isdisjoint(block.layers)]
    if not blocks:
        raise LoweringError("no inner residual blocks, expected some: their convolutions become binary")
    for block in blocks:
        _check(block)
    return blocks


def _remove_activations(graph: ir.Graph, block: ResidualBlock) -> None:
    """Take away the activations on the block's main path, and the one that the block's input comes from."""
    before = _activation_before(block.start)
    for node in [*block.main_nodes, *([] if before is None else [before])]:
        source = node.inputs[0]
        if activation_of(node) is not None and node.graph is graph and source is not None:
            replace_value(node.outputs[0], source)
            graph.remove(node, safe=True)


def _check(block: ResidualBlock) -> None:
    """A chain of Conv, BatchNormalization and activations that nothing else reads, of known shapes."""
    where = f"block '{block.name}'"
    for node in block.main_nodes:
        if node.op_type not in _ON_MAIN_PATH or Layer(node).role is Role.NONE:
            raise LoweringError(f"{where}: {describe(node)} on its main path, expected Conv and BatchNormalization")
        value = node.outputs[0]
        if len(value.uses()) != 1 or value.is_graph_output():
            raise LoweringError(f"{where}: '{value.name}' is read more than once, expected a chain")
    for node in block.layers:
        follower = next(iter(node.outputs[0].consumers()))
        if follower.op_type != "BatchNormalization":
            raise LoweringError(f"{where}: no BatchNormalization follows {describe(node)}, expected one")
        if _shape(follower.outputs[0]) is None:
            raise LoweringError(f"{where}: the shape of what {describe(node)} gives is unknown, expected a fixed one")


def _activation_before(value: ir.Value) -> ir.Node | None:
    """The activation that gives this value, directly or through pools and other carriers."""
    node = value.producer()
    if node is None or activation_of(node) is not None:
        return node
    source = node.inputs[0]
    is_carrier = Layer(node).role in {Role.CARRY, Role.POOL} and node.op_type != "Concat"
    return _activation_before(source) if is_carrier and source is not None else None


def _shortcut(graph: ir.Graph, block: ResidualBlock) -> BinaryBlock:
    """Add the sums before the block's own Add, and let that take the last of them."""
    shape = _shape(block.main)
    stream, is_skip_used = block.start, False
    for node in block.layers:
        product = next(iter(node.outputs[0].consumers())).outputs[0]
        own = _shape(product)
        keeps = own == _shape(stream)
        takes_skip = own == shape and not (is_skip_used and keeps)
        shortcut = block.skip if takes_skip else stream if keeps else None
        is_skip_used |= takes_skip
        if node is block.layers[-1]:
            assert shortcut is not None
            block.add.replace_input_with(1 - block.add.inputs.index(product), shortcut)
        else:
            stream = product if shortcut is None else _add(graph, node, product, shortcut)
    return BinaryBlock(block.name, tuple(Layer(node).name for node in block.layers), str(block.add.name))


def _add(graph: ir.Graph, node: ir.Node, product: ir.Value, shortcut: ir.Value) -> ir.Value:
    """`product + shortcut`, which all readers of the product get."""
    add = ir.node("Add", [None, shortcut], name=f"{node.name}_shortcut")
    total = add.outputs[0]
    name_value(total, f"{product.name}_shortcut", product.type or ir.TensorType(ir.DataType.FLOAT), product.shape)
    product.replace_all_uses_with(total)
    add.replace_input_with(0, product)
    producer = product.producer()
    assert producer is not None
    graph.insert_after(producer, add)
    return total


def _shape(value: ir.Value) -> tuple[int | None, ...] | None:
    """The shape without the batch; None where a size is unknown."""
    shape = static_shape(value)
    return None if shape is None or None in shape[1:] else shape[1:]
