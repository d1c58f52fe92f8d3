"""What the activations have in common that are no clip: Sigmoid, LeakyRelu, SiLU and their kind."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, NoReturn

import onnx_ir as ir

from qpipe.arith.namespace import A, IntArray
from qpipe.arith.spec import QuantSpec
from qpipe.errors import LoweringError
from qpipe.nodes import describe, float_attribute
from qpipe.ops.base import Carrier, Refusal
from qpipe.ops.function import Curve
from qpipe.ops.work import NodeWork

if TYPE_CHECKING:
    from qpipe.ir.quantized.view import RequantizedLayer
    from qpipe.lowering.integer_builder import IntegerBuilder
    from qpipe.lowering.qoperator_builder import QOperatorBuilder
    from qpipe.ops.base import TorchFunction


class CurveOp(Carrier):
    """A function of one number. Calibration puts a table in its place, so that no lowering ever meets its node.

    Behind a layer it belongs to it; alone it is a table behind its input's grid, and keeps the width of that.
    """

    defaults: ClassVar[tuple[tuple[str, float], ...]] = ()
    """Its attributes, with ONNX's own values."""
    cost: ClassVar[NodeWork]
    """Of the formula, and of its derivative where the result is at hand."""

    @abstractmethod
    def formula(self, x: A) -> A:
        """The function; its attributes come by name."""

    def activation(self, node: ir.Node) -> Curve:
        """The function that the node's attributes say."""
        parameters = tuple((name, float_attribute(node, name, value)) for name, value in self.defaults)
        return Curve(node.op_type, node.domain, parameters, self)

    def refusal(self, node: ir.Node) -> Refusal | None:
        """None: any attributes will do."""
        return None

    def work(self, node: ir.Node) -> NodeWork:
        """`cost`."""
        return self.cost

    def torch(self, node: ir.Node) -> TorchFunction:
        """`x -> f(x)`."""
        return self.activation(node).real

    def carried(self, node: ir.Node, sources: Sequence[QuantSpec]) -> QuantSpec:
        """What its table gives."""
        return self.activation(node).table(sources[0], sources[0].bits).grid

    def exact(self, layer: RequantizedLayer, *sources: IntArray) -> NoReturn:
        """LoweringError: such a node computes floats."""
        raise _no_table(layer)

    def lower_qoperator(self, layer: RequantizedLayer, b: QOperatorBuilder) -> NoReturn:
        """LoweringError: such a node computes floats."""
        raise _no_table(layer)

    def lower_integer(self, layer: RequantizedLayer, b: IntegerBuilder) -> NoReturn:
        """LoweringError: such a node computes floats."""
        raise _no_table(layer)


def _no_table(layer: RequantizedLayer) -> LoweringError:
    return LoweringError(f"{describe(layer.node)}: computes floats between quantizers, expected the table of it")
