"""What the ops of two operands have in common: either may be broadcast, and one of them a constant."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import onnx_ir as ir

from qpipe.arith.symbolic import INT32, Symbol
from qpipe.nodes import rank, static_shape
from qpipe.ops.base import Refusal, Role, Unweighted
from qpipe.ops.constant_operand import (
    ConstantOperand,
    constant_grid,
    constant_of,
    read_constant,
    real_constant,
)
from qpipe.ops.quantizer_parts import dequantizes

if TYPE_CHECKING:
    import torch

    from qpipe.arith.namespace import AnyArray, IntArray
    from qpipe.arith.spec import QuantSpec
    from qpipe.ir.quantized.view import RequantizedLayer
    from qpipe.lowering.integer_builder import IntegerBuilder, Layout
    from qpipe.lowering.qoperator_builder import QOperatorBuilder
    from qpipe.ops.base import TorchFunction


class Join(Unweighted):
    """`y = f(a, b)`, element by element; a constant operand is on a grid as well (see `constant_operand`)."""

    role = Role.JOIN

    @abstractmethod
    def combine(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        """The function, of real numbers."""

    def refusal(self, node: ir.Node) -> Refusal | None:
        """Operands of as many axes: they are matched from the last, and the first axis counts images."""
        found = self.operands(node)
        if len(node.inputs) != 2 or not found:
            return Refusal("it has no two operands of which one at least is computed: export the model anew")
        ranks = [dims for value in found if (dims := rank(value)) is not None]
        constants = [array.ndim for array in self.fixed_operands(node).values()]
        if len(set(ranks)) > 1:
            return Refusal(
                f"its operands have {min(ranks)} and {max(ranks)} dimensions: unsqueeze the one that has fewer"
            )
        if ranks and max(constants, default=0) > ranks[0]:
            return Refusal(
                f"its constant has {max(constants)} dimensions, its operand {ranks[0]}: unsqueeze the operand before it"
            )
        return None

    def ends_float(self, node: ir.Node) -> bool:
        """It does."""
        return True

    def operands(self, node: ir.Node) -> tuple[ir.Value, ...]:
        """Those that are computed."""
        return tuple(value for value in node.inputs if value is not None and constant_of(value) is None)

    def fixed_operands(self, node: ir.Node) -> Mapping[int, AnyArray]:
        """The one that is not, if one is."""
        arrays = {index: constant_of(value) for index, value in enumerate(node.inputs)}
        return {index: array for index, array in arrays.items() if array is not None}

    def constant_grid(self, array: AnyArray, sources: Sequence[QuantSpec]) -> QuantSpec:
        """The finest that there is."""
        return constant_grid(array)

    def torch(self, node: ir.Node) -> TorchFunction:
        """`(a, b) -> f(a, b)`, or of the one that is computed."""
        import torch

        values = enumerate(node.inputs)
        fixed = {
            i: torch.from_numpy(real_constant(v)) for i, v in values if v is not None and constant_of(v) is not None
        }

        def run(*tensors: torch.Tensor) -> torch.Tensor:
            given, like = iter(tensors), tensors[0]
            a, b = (fixed[i].to(like.device, like.dtype) if i in fixed else next(given) for i in range(2))
            return self.combine(a, b)

        return run

    def grids(self, node: ir.Node, sources: Sequence[QuantSpec]) -> list[QuantSpec]:
        """Of both operands; sources: of those that are computed. A constant that has none yet is left out."""
        given, found = iter(sources), []
        for value in node.inputs:
            assert value is not None
            if constant_of(value) is None:
                found.append(next(given))
            elif dequantizes(value.producer()):
                found.append(read_constant(value).grid)
        return found

    def integers(self, layer: RequantizedLayer, sources: Sequence[IntArray]) -> list[IntArray]:
        """Of both operands, without zero points."""
        given = iter(sources)
        return [next(given) if part is None else part.integers for part in _constants(layer.node)]

    def codes(self, layer: RequantizedLayer, b: QOperatorBuilder) -> list[list[ir.Value]]:
        """Of both operands, codes, scale and zero point."""
        given, found = iter(layer.sources), []
        for index, part in enumerate(_constants(layer.node)):
            if part is None:
                quantizer = next(given)
                found.append([b.codes(quantizer), *b.grid(quantizer.grid)])
            else:
                found.append([b.constant(f"{layer.name}_constant{index}", part.codes), *b.grid(part.grid)])
        return found

    def symbols(self, layer: RequantizedLayer, b: IntegerBuilder) -> tuple[Layout, list[Symbol | IntArray]]:
        """The layout that both meet in; of what is computed int32 codes, zero point and all, of a constant integers."""
        layout, given = b.common_layout(layer.sources), iter(layer.sources)
        found: list[Symbol | IntArray] = []
        for part in _constants(layer.node):
            if part is None:
                quantizer = next(given)
                codes = b.codes(quantizer, layout)
                found.append(b.symbol(codes, quantizer.codes, layout, quantizer.grid.dtype).astype(INT32))
            else:
                dims = rank(layer.sources[0].codes) or part.integers.ndim
                aligned = part.integers.reshape((1,) * (dims - part.integers.ndim) + part.integers.shape)
                found.append(b.arrange(aligned, layout))
        return layout, found

    def steps(self, layer: RequantizedLayer, b: QOperatorBuilder) -> list[Symbol | IntArray]:
        """The same of both operands in a qoperator graph: for what no operator of onnxruntime's own computes."""
        emitter, given = b.steps(layer.name), iter(layer.sources)
        found: list[Symbol | IntArray] = []
        for part in _constants(layer.node):
            if part is None:
                quantizer = next(given)
                sizes = static_shape(quantizer.codes)
                codes = Symbol(emitter, b.codes(quantizer), quantizer.grid.dtype, () if sizes is None else sizes[1:])
                found.append(codes.astype(INT32))
            else:
                found.append(part.integers)
        return found


def _constants(node: ir.Node) -> list[ConstantOperand | None]:
    """For each operand what it is where it is a constant."""
    return [None if value is None or constant_of(value) is None else read_constant(value) for value in node.inputs]
