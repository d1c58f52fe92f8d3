"""Ops without any integer form, and what to do with each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final, NoReturn

import onnx_ir as ir

from qpipe.arith.namespace import IntArray
from qpipe.errors import LoweringError
from qpipe.nodes import (
    STANDARD_DOMAINS,
    constant_array,
    describe,
    static_shape,
)
from qpipe.ops.base import Refusal, Role, Unweighted
from qpipe.ops.work import NodeWork, Work

if TYPE_CHECKING:
    from qpipe.ir.quantized.view import RequantizedLayer
    from qpipe.lowering.integer_builder import IntegerBuilder
    from qpipe.lowering.qoperator_builder import QOperatorBuilder

OR_LEAVE: Final = "or leave it, and it stays float"
_ACTIVATION: Final = f"replace it by Relu or Clip(0, 6) and train on, {OR_LEAVE}"
_STATISTICS: Final = (
    "it computes statistics at run time, and is no LayerNormalization of up to 8192 numbers: use BatchNormalization "
    "instead, or export the model with a fixed input size"
)
_POST_PROCESSING: Final = "it belongs behind the last layer; it stays float anywhere"
_CHOICE: Final = "behind the last layer it chooses among integers; before other layers it stays float"
_CONTROL_FLOW: Final = f"take the control flow out: export the branch that is used, {OR_LEAVE}"
_RECURRENT: Final = f"recurrent layers have no integer form here: use convolutions, {OR_LEAVE}"
_DEFAULT: Final = f"replace it by ops that have an integer form (Conv, Gemm, Relu, Add, pooling, ...), {OR_LEAVE}"

_GROUPS: Final[Mapping[str, tuple[str, ...]]] = {
    _ACTIVATION: (
        "Clip", "PRelu", "Swish", "Shrink",
    ),
    _STATISTICS: (
        "InstanceNormalization", "GroupNormalization", "LRN", "MeanVarianceNormalization",
        "LpNormalization", "RMSNormalization",
    ),
    _POST_PROCESSING: (
        "LogSoftmax", "NonMaxSuppression", "RoiAlign", "Hardmax", "Multinomial",
    ),
    _CHOICE: ("ArgMax", "ArgMin", "TopK"),
    _CONTROL_FLOW: ("If", "Loop", "Scan"),
    _RECURRENT: ("LSTM", "GRU", "RNN"),
}  # fmt: skip
_ADVICE: Final[dict[str, str]] = {
    **{op: advice for advice, ops in _GROUPS.items() for op in ops},
    "GlobalMaxPool": "how large its image is is unknown: export the model with a fixed input size",
    "Split": "its sizes are computed: export the model with constant ones",
    "ConvTranspose": "its weights are computed, or its sizes are open: export it with constants and a fixed input size",
    "Cast": "take it out: the network computes in one type",
    "LpPool": "replace it by AveragePool or MaxPool",
}
_WORK: Final[Mapping[str, NodeWork]] = {
    **dict.fromkeys(("Split", "Cast", "Shape", "And", "Or", "Xor", "Not"), NodeWork()),
    **dict.fromkeys(("Less", "LessOrEqual", "Greater", "GreaterOrEqual", "Equal"), NodeWork(Work(compare=1))),
    "PRelu": NodeWork(Work(multiply=1, compare=1), backward=Work(multiply=2, add=1, compare=1)),
}


def size_advice(node: ir.Node) -> str:
    """Of what is computed from sizes: of a loaded model's inputs only the batch can be open."""
    if node.inputs and all(constant_array(value) is not None for value in node.inputs):
        return "a constant that is too large to be computed when loading: make it smaller, or take it out"
    inputs = node.graph.inputs if isinstance(node.graph, ir.Graph) else ()
    if all(None not in (static_shape(value) or ()) for value in inputs):
        return f"it hangs on numbers that the network computes: export the model with constants instead, {OR_LEAVE}"
    return f"it hangs on the batch, which is open: export the model with a batch of 1, {OR_LEAVE}"


_AROUND: Final[Mapping[str, Callable[[ir.Node], str | None]]] = {
    **dict.fromkeys(("Shape", "Size", "ConstantOfShape", "Range", "NonZero"), size_advice),
}
"""Advice that hangs on what stands around the node; where it finds none, the table's."""


class Refused(Unweighted):
    """Every op that no other class here has."""

    op_types = ()
    role = Role.NONE

    def refusal(self, node: ir.Node) -> Refusal:
        """What to do with it, by the table."""
        if node.domain not in STANDARD_DOMAINS:
            return Refusal(f"the domain '{node.domain}' is not standard ONNX: replace the node by standard ops")
        around = _AROUND.get(node.op_type)
        return Refusal((None if around is None else around(node)) or _ADVICE.get(node.op_type, _DEFAULT))

    def work(self, node: ir.Node) -> NodeWork | None:
        """By the table."""
        return _WORK.get(node.op_type) if node.domain in STANDARD_DOMAINS else None

    def operands(self, node: ir.Node) -> tuple[ir.Value, ...]:
        """All that it reads."""
        return tuple(value for value in node.inputs if value is not None)

    def fits_skip(self, node: ir.Node) -> bool:
        """A pool."""
        return node.op_type == "GlobalMaxPool"

    def torch(self, node: ir.Node) -> NoReturn:
        """LoweringError: it can't be trained."""
        raise LoweringError(f"{describe(node)}: no torch semantics for it")

    def exact(self, layer: RequantizedLayer, *sources: IntArray) -> NoReturn:
        """LoweringError."""
        raise LoweringError(f"{describe(layer.node)}: no integer form")

    def lower_qoperator(self, layer: RequantizedLayer, b: QOperatorBuilder) -> NoReturn:
        """LoweringError."""
        raise LoweringError(f"{describe(layer.node)}: no integer form")

    def lower_integer(self, layer: RequantizedLayer, b: IntegerBuilder) -> NoReturn:
        """LoweringError."""
        raise LoweringError(f"{describe(layer.node)}: no integer form")
