"""What Conv, Gemm and MatMul have in common: a constant tensor of weights, its layout, its gradients, its proof."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import onnx_ir as ir

from qpipe.arith.certificate import CertificateRow, weighted_row
from qpipe.arith.exact import Exact
from qpipe.arith.namespace import A, AnyArray, Float64Array, FloatArray, IntArray
from qpipe.arith.spec import STORAGE_MAX
from qpipe.nodes import constant_array, constant_input, group_count, input_value, require_constant, static_shape
from qpipe.ops.base import Op, Refusal, Role
from qpipe.ops.factors import Factors, placed
from qpipe.ops.quantizer_parts import stored
from qpipe.ops.work import NO_WORK, NodeWork, Work

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

    from qpipe.ir.quantized.view import InnerWeighted, LastLayer, Weighted  # noqa: F401, in the base's text
    from qpipe.ir.quantized.view_weights import FinalWeight
    from qpipe.lowering.integer_builder import IntegerBuilder
    from qpipe.lowering.qoperator_builder import QOperatorBuilder


Places = tuple[IntArray, ...]
"""Of results: an index along each axis but that of the channels, or of all these in one."""


@dataclass(frozen=True)
class TorchProduct:
    """The three primitives of a product, on tensors; training in another arithmetic replaces them.

    forward: `(x, w, b or None) -> y`, which is what a call computes. grad_input: `(shape of x, w, gradient of y) ->
    gradient of x`. grad_weight: `(x, shape of w, gradient of y) -> gradient of w`. gradients: both, of
    `(x, w, gradient of y)`, in less time than one after the other takes. A bias's gradient is a sum.
    """

    forward: Callable[..., torch.Tensor]
    grad_input: Callable[[Sequence[int], torch.Tensor, torch.Tensor], torch.Tensor]
    grad_weight: Callable[[torch.Tensor, Sequence[int], torch.Tensor], torch.Tensor]
    gradients: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]

    def __call__(self, x: torch.Tensor, w: torch.Tensor, b: torch.Tensor | None = None) -> torch.Tensor:
        """`forward`."""
        return self.forward(x, w, b)


class Product(Op["InnerWeighted[FinalWeight]"]):
    """An op that multiplies by a tensor of weights; a last layer's int32 sums leave as they are.

    Weights as rows are `[C, K]`: output channels by what one of them sums over, as integer kernels walk it.
    """

    role = Role.COMPUTE
    channel_axis: ClassVar[int]
    """The axis of the result that counts output channels."""
    fuses_without_quantizer: ClassVar[bool] = True
    """Whether onnxruntime has an integer kernel for one between quantizers that none follows."""

    def refusal(self, node: ir.Node) -> Refusal | None:
        """Weight and bias must be constants, be they quantized or not."""
        weight, bias = input_value(node, 1), input_value(node, 2)
        if weight is None or constant_array(node.inputs[0]) is not None:
            return Refusal(
                "its first operand is a constant: exchange the operands, transposed, so that the weight is second"
            )
        if constant_array(stored(weight)) is None:
            return self.computed_weight
        if bias is not None and constant_array(stored(bias)) is None:
            return Refusal(
                "its bias is computed by the graph: export the model with a constant one, or write an Add behind it"
            )
        return _bias_refusal(self, node)

    computed_weight: ClassVar[Refusal]
    """Of a node whose weight is no constant."""

    def sign(self, inputs: Sequence[bool | None]) -> bool | None:
        """A sum of products has any sign."""
        return True

    def has_channels(self, node: ir.Node) -> bool:
        """Whether axis 1 of the result counts output channels, so that a BatchNormalization can belong to it."""
        return True

    def factors(self, node: ir.Node, operands: Sequence[IntArray], book: Factors) -> IntArray:
        """New ones for each output channel, which the weight's rows and the bias take; it takes those of its input."""
        weight = require_constant(node, 1, "weight")
        rows: IntArray = self.to_rows(node, np.zeros(weight.shape, np.bool_))
        groups = group_count(node)
        # The input channels of a group lie fastest in a row, once for each place of a kernel.
        each = weight.size // len(rows) // math.prod(weight.shape[2:])
        read = book.along(operands[0], self.channel_axis, each * groups)
        written = book.new(len(rows))

        def of_inputs(channels: AnyArray) -> AnyArray:
            first = np.arange(len(rows))[:, None] // (len(rows) // groups) * each
            return self.to_weight(node, channels[first + np.arange(rows.shape[1]) % each], weight.shape)

        def of_outputs(channels: AnyArray) -> AnyArray:
            return self.to_weight(node, np.broadcast_to(channels[:, None], rows.shape), weight.shape)

        book.take(node, 1, read, 1, of_inputs, is_weight=True)
        book.take(node, 1, written, -1, of_outputs)
        if input_value(node, 2) is not None:
            book.take(node, 2, written, -1)
        return placed(written, self.channel_axis, operands[0].ndim)

    def work(self, node: ir.Node) -> NodeWork:
        """Of its bias; of its multiply-accumulates `summands` tells."""
        bias = NO_WORK if input_value(node, 2) is None else Work(add=1)
        return NodeWork(forward=bias, backward=bias)

    @abstractmethod
    def torch(self, node: ir.Node) -> TorchProduct:
        """Forward and both gradients; attributes are read once."""

    @abstractmethod
    def spatial_dims(self, node: ir.Node) -> int:
        """How many axes the result has behind that of the output channels."""

    @abstractmethod
    def output_axis(self, node: ir.Node) -> int:
        """The axis of the weight that counts output channels: the `axis` of its QuantizeLinear."""

    @abstractmethod
    def to_rows(self, node: ir.Node, weight: A) -> A:
        """The weight (numpy or torch) as `[C, K]` in the order in which integer kernels sum."""

    @abstractmethod
    def to_weight(self, node: ir.Node, rows: A, shape: tuple[int, ...]) -> A:
        """The inverse of `to_rows` for a weight of this shape."""

    def drawn_rows(self, node: ir.Node, x: FloatArray, count: int, rng: np.random.Generator) -> FloatArray:
        """What some of its outputs multiply, as `rows_at`; drawn from those of x."""
        return self.rows_at(node, x, self.drawn_places(node, x, count, rng))

    def takes_bias(self, node: ir.Node) -> bool:
        """Whether it has a place for one, its third input."""
        return True

    @abstractmethod
    def drawn_places(self, node: ir.Node, x: FloatArray, count: int, rng: np.random.Generator) -> Places:
        """Where some of the results of x stand."""

    @abstractmethod
    def rows_at(self, node: ir.Node, x: FloatArray, places: Places) -> FloatArray:
        """What the results at these places multiply, `[G, n, K]`, in the order of a weight's row.

        G: groups of input channels, each of which has its share of the outputs.
        """

    @abstractmethod
    def results_at(self, y: FloatArray, places: Places) -> FloatArray:
        """The results `[n, C]` at these places, of y as the node gives it."""

    @abstractmethod
    def passing(
        self, node: ir.Node, weight: FloatArray, outputs: IntArray, inputs: IntArray, factor: Float64Array
    ) -> FloatArray | None:
        """The weight, but with these outputs passing these inputs on, one each, times a factor each: a Dirac kernel.

        None where the groups of channels keep one of them apart from its input.
        """

    def is_depthwise(self, node: ir.Node, shape: Sequence[int | ir.SymbolicDim] | None = None) -> bool:
        """Whether each group has one input and one output channel: kernels then pair no products (the pair condition).

        shape: of the weight, where it is not the node's input as it stands.
        """
        return False

    @abstractmethod
    def summands(self, node: ir.Node, weight: Sequence[int | None]) -> int:
        """How many products one output sums; `node` may be an integer form. weight: its shape."""

    def prove(self, layer: Weighted[FinalWeight], *, check_pairs: bool) -> Iterator[CertificateRow]:
        """Accumulation, requantization, pairs, simulation in float32 (see `qpipe.arith.certificate`)."""
        weight, codes = layer.weight, layer.weight.codes
        source, output = layer.sources[0].reach, None if layer.quantizer is None else layer.quantizer.rounded_to
        yield weighted_row(
            layer.name,
            layer.op_type,
            rows=self.to_rows(layer.node, codes.astype(np.int64)),
            bits=weight.bits,
            multiplier=weight.multiplier,
            shift=None if output is None else output.exponent - source.exponent - weight.exponent,
            bias=weight.bias,
            source=source,
            output=output,
            check_pairs=check_pairs and not self.is_depthwise(layer.node, codes.shape),
            fuses=output is not None or self.fuses_without_quantizer,
        )

    def exact(self, layer: Weighted[FinalWeight], *sources: IntArray) -> Exact:
        """`(acc + bias) * m` in units of `2**(l_x + l_w)`, each of the channel; of a last layer all have one."""
        final, grid = layer.weight, layer.sources[0].grid
        largest = max(STORAGE_MAX - grid.zero_point, grid.zero_point)
        sums = self.sums(layer.node, final.codes.astype(np.int64), sources[0], largest)
        along = [1] * sums.ndim
        along[self.channel_axis] = -1
        bias, multiplier, exponent = (
            values.reshape(along) for values in (final.bias, final.multiplier, final.exponent + grid.exponent)
        )
        return Exact((sums + bias) * multiplier, exponent)

    @abstractmethod
    def sums(self, node: ir.Node, codes: IntArray, x: IntArray, largest: int) -> Float64Array:
        """The sums of products of integers, in numpy: codes of the weight in its own layout, x up to `largest`."""

    @abstractmethod
    def lower_qoperator_last(self, layer: LastLayer[FinalWeight], b: QOperatorBuilder) -> None:
        """`lower_qoperator` of a last layer."""

    @abstractmethod
    def lower_integer_last(self, layer: LastLayer[FinalWeight], b: IntegerBuilder) -> None:
        """`lower_integer` of a last layer."""


def _bias_refusal(op: Product, node: ir.Node) -> Refusal | None:
    """A Gemm's bias may broadcast along its rows, but not have some for each of them."""
    bias, weight = constant_input(node, 2), input_value(node, 1)
    shape = None if weight is None else static_shape(weight)
    channels = None if bias is None or not shape else shape[op.output_axis(node)]
    if bias is None or channels is None or bias.size in {1, channels}:
        return None
    return Refusal(f"its bias has shape {list(bias.shape)}, expected [{channels}]: write the rest as an Add behind it")
