"""What a network computes for one image, layer by layer: sizes, multiply-accumulates, where gradients go."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from qpipe.arith.mls.accumulator import Convolution
from qpipe.errors import ModelError
from qpipe.ir.cost.macs import count_macs, count_parameters
from qpipe.ir.graph.edges import Passage, before_weights, feeding_weights
from qpipe.ir.graph.layers import Layer
from qpipe.nodes import constant_array, describe, group_count, input_value, static_shape, window
from qpipe.ops import Product, op_of, product_of, trained_operands
from qpipe.ops.quantizer_parts import stored
from qpipe.ops.work import NodeWork


@dataclass(frozen=True)
class ProductSizes:
    """A product for one image, as a convolution: a Gemm or MatMul is one of 1×1 on as many pixels as there are rows.

    weight: `[co, ci / g, *kernel]`. activation: `[1, ci, *spatial]`.
    """

    macs: int
    weight: tuple[int, ...]
    activation: tuple[int, ...]
    convolution: Convolution

    @property
    def inputs(self) -> int:
        """Elements."""
        return math.prod(self.activation)

    @property
    def weights(self) -> int:
        """Elements."""
        return math.prod(self.weight)

    @property
    def positions(self) -> int:
        """Pixels of the result."""
        return math.prod(self.convolution.output(self.activation[2:], self.weight[2:]))

    @property
    def outputs(self) -> int:
        """Elements."""
        return self.weight[0] * self.positions

    @property
    def touched(self) -> int:
        """Elements of the input that are read, but for borders: a stride may pass over some.

        Taps a multiple of the stride apart read the same pixels, for different outputs.
        """
        conv = self.convolution
        axes = zip(self.weight[2:], conv.strides, conv.dilations, strict=True)
        phases = math.prod(min(kernel, stride // math.gcd(stride, dilation)) for kernel, stride, dilation in axes)
        return self.activation[1] * self.positions * phases


@dataclass(frozen=True)
class CountedNode:
    """elements: of its result, for one image. is_trained: whether its result has a gradient."""

    node: ir.Node
    elements: int
    work: NodeWork
    is_trained: bool


@dataclass(frozen=True)
class CountedLayer:
    """nodes: those whose work is known. product: of one that multiplies by weights, None of others.

    passes_gradient: whether something before it is trained. is_edge: a first or a last layer.
    """

    layer: Layer
    nodes: tuple[CountedNode, ...]
    product: ProductSizes | None
    passes_gradient: bool
    is_edge: bool

    @property
    def elements(self) -> int:
        """Of its result; 0 where nothing is known of it."""
        return self.nodes[-1].elements if self.nodes else 0


@dataclass(frozen=True)
class CountedNetwork:
    """For one image. inputs, outputs: elements of the graph's. gradient_sums: additions where a tensor that has a
    gradient is read more than once. uncounted: ops of whose work nothing is known, and how many nodes.
    """

    layers: tuple[CountedLayer, ...]
    inputs: int
    outputs: int
    gradient_sums: int
    parameters: int
    uncounted: dict[str, int]

    @property
    def products(self) -> list[tuple[CountedLayer, ProductSizes]]:
        """The layers that have weights."""
        return [(layer, layer.product) for layer in self.layers if layer.product is not None]


def count_network(graph: ir.Graph, layers: Sequence[Layer]) -> CountedNetwork:
    """Count a graph whose shapes are inferred. layers: all of it but quantizers.

    Raises:
        ModelError: nothing has weights, or the size of what multiplies by weights is unknown.
    """
    trained, edges = _trained(graph), _edges(graph)
    counted, uncounted = [], Counter[str]()
    for layer in layers:
        product = _product(layer.node) if multiplies_by_weights(layer.node) else None
        nodes = []
        for node in layer.nodes:
            elements, work = elements_of(node.outputs[0]), _work(node)
            if work is None or elements is None or (product is None and isinstance(op_of(node), Product)):
                uncounted[node.op_type] += 1
            else:
                nodes.append(CountedNode(node, elements, work, node.outputs[0] in trained))
        passes = any(value in trained for value in layer.node.inputs)
        counted.append(CountedLayer(layer, tuple(nodes), product, passes, layer.node in edges))
    if not any(layer.product for layer in counted):
        raise ModelError("nothing multiplies by constant weights, expected a network with such layers to count")
    return CountedNetwork(
        layers=tuple(counted),
        inputs=_total(graph.inputs),
        outputs=_total(graph.outputs),
        gradient_sums=sum((len(v.uses()) - 1) * (elements_of(v) or 0) for v in trained if len(v.uses()) > 1),
        parameters=count_parameters(graph),
        uncounted=dict(uncounted.most_common()),
    )


def multiplies_by_weights(node: ir.Node) -> bool:
    """Whether it is a product of activations, first, and of weights: one for all, no stack of matrices."""
    op = op_of(node)
    if not isinstance(op, Product):
        return False
    data, weight = (constant_array(stored(value)) for value in node.inputs[:2])
    return data is None and weight is not None and weight.ndim == 2 + op.spatial_dims(node)


def _trained(graph: ir.Graph) -> dict[ir.Value, None]:
    """What comes from something that is trained, in order."""
    found: dict[ir.Value, None] = {}
    for node in graph:
        is_trained = (
            multiplies_by_weights(node) if isinstance(op_of(node), Product) else trained_operands(node) is not None
        )
        if is_trained or any(value in found for value in node.inputs):
            found.update(dict.fromkeys(node.outputs))
    return found


def _edges(graph: ir.Graph) -> set[ir.Node]:
    """The first and the last layers."""
    passages = [
        Passage(multiplies_by_weights(node), tuple(value for value in node.inputs if value is not None), output)
        for node in graph
        for output in node.outputs
    ]
    first, inner = before_weights(graph.inputs, passages), feeding_weights(passages)
    products = [node for node in graph if multiplies_by_weights(node)]
    return {node for node in products if node.inputs[0] in first or node.outputs[0] not in inner}


def _work(node: ir.Node) -> NodeWork | None:
    try:
        return op_of(node).work(node)
    except ModelError:  # of a tail's window, which nobody needs to read
        return None


def _product(node: ir.Node) -> ProductSizes:
    op = product_of(node)
    macs, weight, data = count_macs(node), static_shape(input_value(node, 1)), static_shape(node.inputs[0])
    if macs is None or weight is None or data is None or None in data[1:]:
        raise ModelError(f"{describe(node)}: the sizes of its tensors are unknown, expected fixed ones to count with")
    sizes = [size or 0 for size in data[1:]]
    if op.spatial_dims(node):
        shape = window(node)
        dims = len(shape.kernel)
        pads = tuple(zip(shape.pads[:dims], shape.pads[dims:], strict=True))
        convolution = Convolution(shape.strides, pads, shape.dilations, group_count(node))
        return ProductSizes(macs, tuple(size or 0 for size in weight), (1, *sizes), convolution)
    *rows, channels = sizes
    ones = (1,) * len(rows)
    convolution = Convolution(ones, ((0, 0),) * len(rows), ones)
    kernel = (weight[op.output_axis(node)] or 0, channels, *ones)
    return ProductSizes(macs, kernel, (1, channels, *rows), convolution)


def elements_of(value: ir.Value | None) -> int | None:
    """For one image: the first dimension is the batch. None where another one is unknown."""
    shape = static_shape(value)
    if shape is None or None in shape[1:]:
        return None
    return math.prod(size or 0 for size in shape[1:])


def _total(values: Iterable[ir.Value]) -> int:
    return sum(elements_of(value) or 0 for value in values)
