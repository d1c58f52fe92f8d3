"""What an op is to qpipe: its torch semantics, the grid that it carries, its lowerings; one class in one file."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

import onnx_ir as ir

from qpipe.arith.spec import QuantSpec

if TYPE_CHECKING:
    import torch

    from qpipe.ir.quantized.view import InnerWeighted, LastLayer, RequantizedLayer  # noqa: F401, in the bases' text
    from qpipe.ir.quantized.view_weights import FinalWeight
    from qpipe.lowering.integer_builder import IntegerBuilder
    from qpipe.lowering.qoperator_builder import QOperatorBuilder

    TorchFunction = Callable[..., torch.Tensor]


L = TypeVar("L", bound="RequantizedLayer")


class Op(ABC, Generic[L]):
    """One ONNX op, or a few that differ only in how their arguments are written.

    The torch semantics are those of real numbers. Values on a power-of-two grid are exact in float32 or float64, so the
    same function trains and, in a wide enough type, gives the integers that ship.
    """

    op_types: ClassVar[tuple[str, ...]]

    @abstractmethod
    def torch(self, node: ir.Node) -> TorchFunction:
        """A function of the layer's input tensors (then, for weighted ops, of the weight); attributes are read once."""

    def carried(self, node: ir.Node, sources: Sequence[QuantSpec]) -> QuantSpec:
        """A carrier's output grid, from its inputs'."""
        return sources[0]

    def lower_qoperator(self, layer: L, b: QOperatorBuilder) -> None:
        """Write the finalized layer with onnxruntime's integer operators; by default the node itself, on codes."""
        codes = b.emit_copy(layer.node, [b.codes(q) for q in layer.sources])
        b.carry(layer, codes, self.carried(layer.node, [q.spec for q in layer.sources]))

    def lower_integer(self, layer: L, b: IntegerBuilder) -> None:
        """Write the finalized layer with standard operators on integers; by default the node itself, on codes."""
        codes = b.emit_copy(layer.node, [b.codes(q) for q in layer.sources])
        b.carry(layer, codes, "NCHW", self.carried(layer.node, [q.spec for q in layer.sources]))


class Unweighted(Op["RequantizedLayer"]):
    """An op without a tensor of weights: it carries integers, adds or averages them."""


class Product(Op["InnerWeighted[FinalWeight]"]):
    """An op that multiplies by a tensor of weights; a last layer's int32 sums leave as they are."""

    @abstractmethod
    def lower_qoperator_last(self, layer: LastLayer[FinalWeight], b: QOperatorBuilder) -> None:
        """`lower_qoperator` of a last layer."""

    @abstractmethod
    def lower_integer_last(self, layer: LastLayer[FinalWeight], b: IntegerBuilder) -> None:
        """`lower_integer` of a last layer."""


AnyOp = Op[Any]
