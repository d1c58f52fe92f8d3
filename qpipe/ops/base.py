"""What an op says of itself; one class in one file. Whoever groups, plans, proves, lowers or trains asks it.

ONNX's names of ops stand in this package, so that the rest of the house compares none. Builders and the view are known
here by their types alone: a lowering is given its builder.
"""

from __future__ import annotations

import enum
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

import numpy as np
import onnx_ir as ir

from qpipe.arith.certificate import CertificateRow
from qpipe.arith.exact import Exact
from qpipe.arith.namespace import AnyArray, IntArray
from qpipe.arith.spec import QuantSpec
from qpipe.nodes import STANDARD_DOMAINS, rank
from qpipe.ops.factors import Factors
from qpipe.ops.forms import Operands, StandardForm
from qpipe.ops.function import ActivationFunction
from qpipe.ops.work import NodeWork

if TYPE_CHECKING:
    import torch

    from qpipe.ir.quantized.view import RequantizedLayer
    from qpipe.lowering.integer_builder import IntegerBuilder
    from qpipe.lowering.qoperator_builder import QOperatorBuilder

    TorchFunction = Callable[..., torch.Tensor]


L = TypeVar("L", bound="RequantizedLayer")


class Role(enum.Enum):
    """What a node does to quantized tensors."""

    COMPUTE = "multiplies by weights: quantized"
    JOIN = "combines tensors: quantized"
    POOL = "averages: quantized"
    CARRY = "carries integers"
    NONE = "no integer form"


@dataclass(frozen=True)
class Refusal:
    """Why a node has no integer form as it stands, in words that follow its name, and what to do."""

    advice: str

    def __str__(self) -> str:
        return self.advice


class Op(ABC, Generic[L]):
    """One ONNX op, or a few that differ only in how their arguments are written.

    The torch semantics are those of real numbers. Values on a power-of-two grid are exact in float32 or float64, so the
    same function trains and, in a wide enough type, gives the integers that ship.
    """

    op_types: ClassVar[tuple[str, ...]]
    domains: ClassVar[frozenset[str]] = STANDARD_DOMAINS
    role: ClassVar[Role]
    """Of a node that is not refused."""
    parameters: ClassVar[tuple[Operands, ...]] = ()
    """Where the op, and its integer forms, have what is trained."""
    standard_forms: ClassVar[tuple[StandardForm, ...]] = ()
    """Of its integer forms that only onnxruntime knows."""
    homogeneous: ClassVar[bool] = False
    """Whether every node of it is (`is_homogeneous`)."""
    only_reshapes: ClassVar[bool] = False
    """Whether it changes nothing but the shape or the size: between a last layer and an output it stays with that."""
    only_joins: ClassVar[bool] = False
    """Whether all that it does is to put its operands side by side: between last layers and an output likewise."""
    is_float_form: ClassVar[bool] = False
    """Whether it stays a node of real numbers until `finalize` writes its integers (see `qpipe.ops.float_form`)."""
    is_scale_invariant: ClassVar[bool] = False
    """Whether it gives the same of operands times a positive factor, but for what `scale_operand` changes in it."""
    is_sum: ClassVar[bool] = False
    """Whether it adds its operands: what a residual block ends in."""
    reads_wide: ClassVar[bool] = False
    """Whether it takes codes of 16 bits. Of what does not, each node has a quantizer of its own that narrows them."""
    asks_wide: ClassVar[bool] = False
    """Whether it is better for them: what weighs numbers of one stream by each other."""
    moves_wide: ClassVar[bool] = False
    """Whether it carries them."""
    gives_wide: ClassVar[bool] = False
    """Whether it can give them."""
    is_product: ClassVar[bool] = False
    """Whether it multiplies its operands, number by number."""

    def takes(self, node: ir.Node) -> bool:
        """Whether a node of one of its names is its own: of ops that share a name, which one it is."""
        return True

    def ends_float(self, node: ir.Node) -> bool:
        """Whether it stays float where it leads to no weights, or through floats alone.

        What is computed of a network's scores, or of an island's numbers, keeps their steps.
        """
        return False

    @abstractmethod
    def refusal(self, node: ir.Node) -> Refusal | None:
        """Why the node has no integer form as it stands; None where it has one, in every export."""

    def operands(self, node: ir.Node) -> tuple[ir.Value, ...]:
        """The activations that enter: by default the first input."""
        return tuple(value for value in node.inputs[:1] if value is not None)

    def passed(self, node: ir.Node) -> tuple[ir.Value, ...]:
        """Of these, those whose numbers make its result's: by default all; what is only compared does not."""
        return self.operands(node)

    def within(self, node: ir.Node) -> tuple[ir.Node, ...]:
        """Nodes before it that are a part of it, of a node that is not refused: nothing else reads what they give."""
        return ()

    def sign(self, inputs: Sequence[bool | None]) -> bool | None:
        """Whether the result can be negative, from whether what is passed can; None where only the data can tell."""
        if any(inputs):
            return True
        return None if None in inputs else False

    def brings_negatives(self, node: ir.Node) -> bool:
        """Whether the node itself has negative numbers, whatever its operands have."""
        return False

    def activation(self, node: ir.Node) -> ActivationFunction | None:
        """The function of an activation, which can be a part of the layer before it; None of other nodes."""
        return None

    def takes_wide(self, node: ir.Node) -> bool:
        """Whether the node takes codes of 16 bits: `reads_wide`, but where that hangs on the node."""
        return self.reads_wide

    def sums_wide(self, node: ir.Node) -> bool:
        """Whether the node adds up few enough numbers of one operand to take such codes of them."""
        return False

    def is_view(self, node: ir.Node) -> bool:
        """Whether its result lies in its input's memory."""
        return False

    def factors(self, node: ir.Node, operands: Sequence[IntArray], book: Factors) -> IntArray:
        """The factors of the result's numbers, from those of the operands'; by default all stay.

        Whatever an op gives must be the same numbers, each divided by its factor, when its operands' are divided by
        theirs and its parameters take what it says of them: see `qpipe.ops.factors`.
        """
        return self.without_factors(node, operands, book)

    def without_factors(self, node: ir.Node, operands: Sequence[IntArray], book: Factors) -> IntArray:
        """Let all numbers of the operands stay, and so the result's."""
        book.fix(*operands)
        return np.zeros([1] * (rank(node.outputs[0]) or 0), np.int64)

    def is_homogeneous(self, node: ir.Node) -> bool:
        """Whether one positive factor on all of its operands is that factor on its result."""
        return self.homogeneous

    def linear_in(self, node: ir.Node) -> tuple[ir.Value, ...]:
        """Of what is not homogeneous: operands of which one alone passes a factor on, while all others stay."""
        return ()

    def scale_operand(self, node: ir.Node, factor: float) -> None:
        """Of what is scale-invariant: let the node give of `factor` times its operand what it gave of this."""

    def constants_in_unit(self, node: ir.Node) -> Sequence[int]:
        """Of what is homogeneous: its constant operands, by index, that are to be divided with the others."""
        return ()

    def fits_skip(self, node: ir.Node) -> bool:
        """Whether a skip connection can have it: to choose, to shrink or to widen, not to compute."""
        return False

    def work(self, node: ir.Node) -> NodeWork | None:
        """Operations for each element of the result, by default none; None where they are not known."""
        return NodeWork()

    def macs(self, node: ir.Node) -> int | None:
        """Multiply-accumulates for each element of a product of two activations; 0 of all else.

        None where they are not known. Those of a product with weights hang on these: see `Product.summands`.
        """
        return 0

    @abstractmethod
    def torch(self, node: ir.Node) -> TorchFunction:
        """A function of the layer's input tensors (then, for weighted ops, of the weight); attributes are read once."""

    def simulated(self, layer: RequantizedLayer) -> TorchFunction:
        """`torch`, with the values that the finalized layer has: another function where that is not enough."""
        return self.torch(layer.node)

    def define(self, model: ir.Model) -> None:
        """Give the model the function that a node of this op calls: nothing where it is one of ONNX's own."""

    def finalize(self, model: ir.Model, layer: RequantizedLayer) -> None:
        """Put what ships in the place of a float form: nothing of all else."""

    def carried(self, node: ir.Node, sources: Sequence[QuantSpec]) -> QuantSpec | None:
        """A carrier's output grid, from its inputs'; None of what needs a quantizer of its own."""
        return None

    def rounds(self, node: ir.Node) -> bool:
        """Of a carrier: whether its result lies between the steps of the grid that it carries, and is rounded."""
        return False

    def fixed_operands(self, node: ir.Node) -> Mapping[int, AnyArray]:
        """Operands that are constant and get a grid, by their index: floats, or the codes of a final graph."""
        return {}

    def constant_grid(self, array: AnyArray, sources: Sequence[QuantSpec]) -> QuantSpec:
        """The grid of such a constant beside operands on these."""
        raise NotImplementedError("an op without constant operands")

    def distance(self, node: ir.Node, sources: Sequence[QuantSpec]) -> str | None:
        """Why operands on these grids have no exact result in float32, in words that follow the layer; None: they do.

        Asked when grids are chosen, where the output's is not known yet.
        """
        return None

    def near(self, node: ir.Node, sources: Sequence[QuantSpec]) -> Sequence[QuantSpec]:
        """These grids of its operands, coarser where that alone makes its result exact and costs nothing."""
        return sources

    def fitted(self, node: ir.Node, sources: Sequence[QuantSpec], output: QuantSpec) -> QuantSpec:
        """The grid that was observed of its result, or the nearest one that its integer form can round to."""
        return output

    def prove(self, layer: L, *, check_pairs: bool) -> Iterator[CertificateRow]:
        """The proof that the finalized layer is exact, where there is something to prove.

        check_pairs: whether pairs of weights must be safe for kernels that add two products in a saturating int16.
        """
        return iter(())

    @abstractmethod
    def exact(self, layer: L, *sources: IntArray) -> Exact:
        """What the finalized layer gives before its activation and its rounding, in numpy: the specification.

        sources: the integers of its inputs, without zero points. Nothing of it comes from a runtime or from the
        lowerings, which are compared with it.
        """

    @abstractmethod
    def lower_qoperator(self, layer: L, b: QOperatorBuilder) -> None:
        """Write the finalized layer with onnxruntime's integer operators."""

    @abstractmethod
    def lower_integer(self, layer: L, b: IntegerBuilder) -> None:
        """Write the finalized layer with standard operators on integers."""


class Unweighted(Op["RequantizedLayer"]):
    """An op without a tensor of weights."""


class Carrier(Unweighted):
    """An op whose integers are its inputs': by default the node itself, on codes."""

    role = Role.CARRY

    def carried(self, node: ir.Node, sources: Sequence[QuantSpec]) -> QuantSpec:
        """The first input's grid."""
        return sources[0]

    def exact(self, layer: RequantizedLayer, *sources: IntArray) -> Exact:
        """The integers that it carries, in their own unit."""
        (x,) = sources
        return Exact(self.moved(layer.node, x), layer.sources[0].grid.exponent)

    def moved(self, node: ir.Node, x: IntArray) -> IntArray:
        """The integers of one input in their new place, in numpy."""
        raise NotImplementedError(f"{node.op_type} carries no integers of one input")

    def lower_qoperator(self, layer: RequantizedLayer, b: QOperatorBuilder) -> None:
        """The node itself."""
        codes = b.emit_copy(layer.node, [b.codes(q) for q in layer.sources])
        b.carry(layer, codes, self.carried(layer.node, [q.grid for q in layer.sources]))

    def lower_integer(self, layer: RequantizedLayer, b: IntegerBuilder) -> None:
        """The node itself."""
        codes = b.emit_copy(layer.node, [b.codes(q) for q in layer.sources])
        b.carry(layer, codes, "NCHW", self.carried(layer.node, [q.grid for q in layer.sources]))


AnyOp = Op[Any]
