"""A graph as layers: the node that computes, with the BatchNormalization and the activation that belong to it.

One grouping serves the float graph (which tensors get a quantizer?) and the QDQ graph (what lies between its
quantizers?), so that what calibration plans and what training and export read back can't differ.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

import onnx_ir as ir

from qpipe.formats.functions import DOMAIN
from qpipe.nodes import constant_array, constant_input, float_attribute, input_value, int_attribute, rank


class Role(enum.Enum):
    """What a node does to quantized tensors."""

    COMPUTE = "multiplies by weights: quantized"
    JOIN = "adds tensors: quantized"
    POOL = "averages: quantized"
    CARRY = "carries integers"
    NONE = "no integer form"


WEIGHTED = frozenset({"Conv", "Gemm", "MatMul"})
COMPUTE = WEIGHTED | {"BatchNormalization"}
POOL = frozenset({"AveragePool", "GlobalAveragePool", "ReduceMean"})
CARRY = frozenset(
    {
        "MaxPool",
        "Flatten",
        "Reshape",
        "Squeeze",
        "Unsqueeze",
        "Slice",
        "Pad",
        "Transpose",
        "Identity",
        "Dropout",
        "Concat",
    }
)
ACTIVATIONS = frozenset({"Relu", "Clip"})
QUANTIZING = frozenset({"DequantizeLinear", "QuantizeLinear", "Clip", "Cast"})
RESHAPING = frozenset({"Flatten", "Reshape", "Squeeze", "Unsqueeze", "Transpose", "Identity", "Dropout"})
"""Carriers that move nothing but the shape: between a last layer and an output they stay with the output."""


@dataclass(frozen=True)
class Layer:
    """`node`, then `batch_norm`, then `activation`; each intermediate value has this one consumer."""

    node: ir.Node
    batch_norm: ir.Node | None = None
    activation: ir.Node | None = None

    @property
    def name(self) -> str:
        """The node's name: how messages and tables call the layer."""
        return self.node.name or self.output.name or self.node.op_type

    @property
    def op_type(self) -> str:
        """ONNX op of the main node."""
        return self.node.op_type

    @property
    def nodes(self) -> tuple[ir.Node, ...]:
        """All nodes of the layer, in order."""
        return tuple(node for node in (self.node, self.batch_norm, self.activation) if node is not None)

    @property
    def output(self) -> ir.Value:
        """The value that leaves the layer."""
        return self.nodes[-1].outputs[0]

    @property
    def inputs(self) -> tuple[ir.Value, ...]:
        """The activations that enter: a weighted node's first input, a carrier's first, all of Add's and Concat's."""
        count = len(self.node.inputs) if self.op_type in {"Add", "Concat"} else 1
        return tuple(value for value in self.node.inputs[:count] if value is not None)

    @property
    def is_weighted(self) -> bool:
        """Whether it multiplies by a tensor of weights: a Conv, Gemm or MatMul."""
        return self.op_type in WEIGHTED and self.role is Role.COMPUTE

    @property
    def role(self) -> Role:
        """What the layer does to quantized tensors."""
        return role(self.node)


def role(node: ir.Node) -> Role:
    """The role of one node, by its op, its constants and its ranks."""
    op = node.op_type
    if node.domain not in {"", "ai.onnx"}:
        return Role.NONE
    if op in WEIGHTED:
        return Role.COMPUTE if _has_weight(node) and _is_plain(node) else Role.NONE
    if op == "BatchNormalization":
        in_training = int_attribute(node, "training_mode", 0) != 0
        is_fixed = all(constant_array(value) is not None for value in node.inputs[1:5])
        has_channels = (rank(node.inputs[0]) or 0) >= 2
        return Role.COMPUTE if is_fixed and not in_training and has_channels else Role.NONE
    if op == "Add":
        constants = any(constant_array(value) is not None for value in node.inputs)
        return Role.JOIN if not constants and not _broadcasts(node) else Role.NONE
    if op in POOL:
        return Role.POOL if op != "ReduceMean" or _is_spatial_mean(node) else Role.NONE
    if op in CARRY:
        return Role.CARRY if _carries(node) else Role.NONE
    if op in ACTIVATIONS:
        return Role.CARRY if activation_bound(node) is not None else Role.NONE
    return Role.NONE


def activation_bound(node: ir.Node) -> float | None:
    """The upper bound of a Relu (infinite) or of a Clip from 0 (ReLU6: 6); None for any other node."""
    if node.op_type == "Relu":
        return float("inf")
    if node.op_type != "Clip":
        return None
    low, high = constant_input(node, 1), constant_input(node, 2)
    if low is None or float(low) != 0.0 or (len(node.inputs) > 2 and node.inputs[2] is not None and high is None):
        return None
    return float("inf") if high is None else float(high)


def group_layers(graph: ir.Graph, skip: frozenset[ir.Node] = frozenset()) -> list[Layer]:
    """The graph's nodes, without those in `skip`, as layers in topological order."""
    taken: set[ir.Node] = set(skip)
    layers = []
    for node in graph:
        if node in taken:
            continue
        batch_norm = activation = None
        last = node
        if node.op_type in WEIGHTED and role(node) is Role.COMPUTE and _has_channel_axis(node):
            batch_norm = _only_consumer(last, "BatchNormalization")
            batch_norm = batch_norm if batch_norm is not None and role(batch_norm) is Role.COMPUTE else None
            last = batch_norm or last
        if role(node) in {Role.COMPUTE, Role.JOIN, Role.POOL}:
            follower = _only_consumer(last, *ACTIVATIONS)
            activation = follower if follower is not None and activation_bound(follower) is not None else None
        layer = Layer(node, batch_norm, activation)
        taken.update(layer.nodes)
        layers.append(layer)
    return layers


def _has_weight(node: ir.Node) -> bool:
    """Whether the weight is constant, and the bias, where there is one, too."""
    bias = input_value(node, 2)
    is_dynamic = constant_array(node.inputs[0]) is None
    return is_dynamic and _is_constant(input_value(node, 1)) and (bias is None or _is_constant(bias))


def _is_constant(value: ir.Value | None) -> bool:
    """Whether it is a constant, or the DequantizeLinear of one."""
    while (
        value is not None
        and (producer := value.producer()) is not None
        and (producer.domain == DOMAIN or producer.op_type in QUANTIZING)
    ):
        value = producer.inputs[0]
    return constant_array(value) is not None


def _has_channel_axis(node: ir.Node) -> bool:
    """Whether axis 1 of the output counts channels: of a MatMul only in two dimensions."""
    return node.op_type != "MatMul" or rank(node.inputs[0]) == 2


def _broadcasts(node: ir.Node) -> bool:
    """Whether the operands are known to differ in shape; dimensions that inference left unknown are taken as equal."""
    left, right = (value.shape for value in node.inputs if value is not None)
    if left is None or right is None:
        return False
    known = [(a, b) for a, b in zip(left, right, strict=False) if isinstance(a, int) and isinstance(b, int)]
    return len(left) != len(right) or any(a != b for a, b in known)


def _is_plain(node: ir.Node) -> bool:
    """Whether a Gemm is `x w + b` and a MatMul's weight a matrix."""
    if node.op_type == "Gemm":
        scales = (float_attribute(node, "alpha", 1.0), float_attribute(node, "beta", 1.0))
        return scales == (1.0, 1.0) and int_attribute(node, "transA", 0) == 0
    return node.op_type == "Conv" or rank(node.inputs[1]) == 2


def _is_spatial_mean(node: ir.Node) -> bool:
    """Whether it is the mean over all spatial axes and keeps them: what replaces a GlobalAveragePool."""
    axes, dims = constant_input(node, 1), rank(node.inputs[0]) or 4
    spatial = list(range(2, dims))
    return axes is not None and sorted(axes.tolist()) == spatial and int_attribute(node, "keepdims", 1) == 1


def _carries(node: ir.Node) -> bool:
    """Whether the carrier's arguments are constant, and what it fills in is zero."""
    if node.op_type == "Concat":
        return all(constant_array(value) is None for value in node.inputs)
    if node.op_type == "Dropout":
        return True
    arguments = [value for value in node.inputs[1:] if value is not None]
    if any(constant_array(value) is None for value in arguments):
        return False
    if node.op_type == "Pad":
        fill = constant_input(node, 2)
        mode = node.attributes.get("mode")
        return (mode is None or mode.as_string() == "constant") and (fill is None or not fill.any())
    if node.op_type == "MaxPool":
        return len(node.outputs) == 1
    if node.op_type == "Squeeze" and not arguments:
        return False
    return node.op_type not in {"Transpose", "Pad"} or rank(node.inputs[0]) is not None


def _only_consumer(node: ir.Node, *op_types: str) -> ir.Node | None:
    """The one consumer of the node's output, if it is of these ops and takes it as its first input."""
    value = node.outputs[0]
    uses = list(value.uses())
    if len(uses) != 1 or value.is_graph_output():
        return None
    consumer, index = uses[0]
    return consumer if consumer.op_type in op_types and index == 0 else None
