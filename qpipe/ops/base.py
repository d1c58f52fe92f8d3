"""What an op is to qpipe: its torch semantics, the grid that it carries, its lowerings; one class in one file."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, ClassVar

import onnx_ir as ir

from qpipe.arith.spec import QuantSpec

if TYPE_CHECKING:
    import torch

    from qpipe.ir.quantized.view import QuantizedLayer
    from qpipe.lowering.integer_builder import IntegerBuilder
    from qpipe.lowering.qoperator_builder import QOperatorBuilder

    TorchFunction = Callable[..., torch.Tensor]


class Op(ABC):
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

    def lower_qoperator(self, layer: QuantizedLayer, b: QOperatorBuilder) -> None:
        """Write the finalized layer with onnxruntime's integer operators; by default the node itself, on codes."""
        codes = b.emit_copy(layer.node, [b.codes(q) for q in layer.inputs])
        b.carry(layer, codes, self.carried(layer.node, [q.spec for q in layer.inputs]))

    def lower_integer(self, layer: QuantizedLayer, b: IntegerBuilder) -> None:
        """Write the finalized layer with standard operators on integers; by default the node itself, on codes."""
        codes = b.emit_copy(layer.node, [b.codes(q) for q in layer.inputs])
        b.carry(layer, codes, "NCHW", self.carried(layer.node, [q.spec for q in layer.inputs]))
