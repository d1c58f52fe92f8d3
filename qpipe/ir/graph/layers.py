"""A graph as layers: the node that computes, with the BatchNormalization and the activation that belong to it.

One grouping serves the float graph (which tensors get a quantizer?) and the QDQ graph (what lies between its
quantizers?), so that what calibration plans and what training and export read back can't differ. What a node is, its
op says (`qpipe.ops`).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import onnx_ir as ir

from qpipe.ir.graph.rewrite import only_reader
from qpipe.ops import ActivationFunction, AnyOp, Curve, Product, Refusal, Role, activation_of, op_of

STAYS_FLOAT: Final = "qpipe.stays_float"
"""Metadata of a node that is not to become integers, with the reason; empty where it was told that it may."""
IS_FORMULA: Final = "qpipe.is_formula"
"""Metadata of a float node whose weights a formula gave: they do not train."""
INTERPOLATES: Final = "qpipe.interpolates"
"""Metadata of a product whose weights a formula gave: they have 8 bits in any network, and make no first layer."""


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
        """ONNX op of the main node, for messages and tables."""
        return self.node.op_type

    @property
    def op(self) -> AnyOp:
        """What is known of the main node's op."""
        return op_of(self.node)

    @property
    def function(self) -> ActivationFunction | None:
        """What its activation computes."""
        return None if self.activation is None else activation_of(self.activation)

    @property
    def curve(self) -> Curve | None:
        """What is to become a table: its activation, or its op where that is one which stands alone."""
        found = self.function or activation_of(self.node)
        return found if isinstance(found, Curve) else None

    @property
    def nodes(self) -> tuple[ir.Node, ...]:
        """All nodes of the layer: in order, then those before the main node that are a part of it."""
        found = tuple(node for node in (self.node, self.batch_norm, self.activation) if node is not None)
        within = self.op.within(self.node)
        return (*found, *within) if within and self.refusal is None else found

    @property
    def output(self) -> ir.Value:
        """The value that leaves the layer."""
        return (self.activation or self.batch_norm or self.node).outputs[0]

    @property
    def inputs(self) -> tuple[ir.Value, ...]:
        """The activations that enter."""
        return self.op.operands(self.node)

    @cached_property
    def refusal(self) -> Refusal | None:
        """Why it has no integer form as it stood when it was first asked; None where it has one."""
        said = self.node.metadata_props.get(STAYS_FLOAT)
        return Refusal(f"it stays float: {said}") if said else self.op.refusal(self.node)

    @property
    def role(self) -> Role:
        """What the layer does to quantized tensors."""
        return Role.NONE if self.refusal is not None else self.op.role

    @property
    def is_weighted(self) -> bool:
        """Whether it multiplies by a tensor of weights: a Conv, Gemm or MatMul."""
        return isinstance(self.op, Product) and self.refusal is None

    @property
    def interpolates(self) -> bool:
        """Whether a formula gave its weights."""
        return INTERPOLATES in self.node.metadata_props

    @property
    def takes_batch_norm(self) -> bool:
        """Whether a BatchNormalization that alone reads its node is a part of it."""
        return isinstance(self.op, Product) and self.refusal is None and self.op.has_channels(self.node)

    @property
    def is_batch_norm(self) -> bool:
        """Whether it is a BatchNormalization that stands alone."""
        return self.op.role is Role.COMPUTE and not isinstance(self.op, Product) and self.refusal is None


def kept_in_float(graph: ir.Graph) -> list[str]:
    """Of nodes that are told to stay float, one line for each reason: how many, and why."""
    reasons = Counter(said for node in graph if (said := node.metadata_props.get(STAYS_FLOAT)))
    return [f"{count} node{'s stay' if count > 1 else ' stays'} float: {said}" for said, count in reasons.items()]


def group_layers(graph: ir.Graph, skip: frozenset[ir.Node] = frozenset()) -> list[Layer]:
    """The graph's nodes, without those in `skip`, as layers in topological order.

    skip: the nodes of a QDQ graph's quantizers. What is no clip is a part of these there, a table; a node that still
    computes it is one by itself, of the float tail.
    """
    taken: set[ir.Node] = set(skip)
    for node in graph:
        if node not in skip:
            taken.update(Layer(node).nodes[1:])
    layers = []
    for node in graph:
        if node in taken:
            continue
        alone = Layer(node)
        batch_norm = activation = None
        last = node
        if alone.takes_batch_norm:
            follower = _only_consumer(last)
            batch_norm = follower if follower is not None and Layer(follower).is_batch_norm else None
            last = batch_norm or last
        if alone.role in {Role.COMPUTE, Role.JOIN, Role.POOL}:
            follower = _only_consumer(last)
            function = None if follower is None else activation_of(follower)
            is_apart = isinstance(function, Curve) and (bool(skip) or function.is_steep)
            activation = None if function is None or is_apart else follower
        layer = alone if last is node and activation is None else Layer(node, batch_norm, activation)
        taken.update(layer.nodes)
        layers.append(layer)
    return layers


def _only_consumer(node: ir.Node) -> ir.Node | None:
    """The one consumer of the node's output, if it takes it as its first input."""
    consumer = only_reader(node.outputs[0])
    return consumer if consumer is not None and consumer.inputs[0] is node.outputs[0] else None
