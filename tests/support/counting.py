"""Networks whose operations are counted."""

import onnx_ir as ir

from qpipe.ir.cost.network import CountedNetwork, count_network
from qpipe.ir.cost.operations import Kind, Operations
from qpipe.ir.graph.layers import group_layers
from support.networks import Network


def of_kind(operations: Operations, kind: Kind) -> int:
    """All of one kind, whatever their operands."""
    return sum(count for one, count in operations.items() if one.kind == kind)


def counted(model: ir.Model) -> CountedNetwork:
    return count_network(model.graph, group_layers(model.graph))


def residual() -> ir.Model:
    """8 channels at 6×6: a first layer, a block whose skip is the identity, one whose skip is a 1×1, a last layer."""
    n = Network(3, 6, 6)
    x = n.op("Relu", n.norm(n.conv("x", 3, 8), 8))
    y = n.op("Relu", n.op("Add", n.norm(n.conv(x, 8, 8), 8), x))
    skip = n.norm(n.conv(y, 8, 16, (1, 1), strides=[2, 2]), 16)
    z = n.op("Relu", n.op("Add", n.norm(n.conv(y, 8, 16, strides=[2, 2]), 16), skip))
    return n.model(n.head(z, 16))
