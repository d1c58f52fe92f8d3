"""Leave out the initial state of a recurrent layer where it is zero, which is what a layer without one begins with.

    LSTM(x, W, R, B, , zeros, zeros)  =  LSTM(x, W, R, B)

PyTorch's exporters make zeros as large as the batch, with arithmetic on its size. Source: ONNX operator specification,
LSTM-22, GRU-22, RNN-22.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final

import onnx_ir as ir

from qpipe.ir.graph.rewrite import rewrite
from qpipe.nodes import constant_array, input_value

_STATES: Final = (5, 6)
"""Operands of a recurrent layer: the state of its output, and of an LSTM's cells."""
_KEEP_NUMBERS: Final = frozenset(
    {"Expand", "Tile", "Reshape", "Squeeze", "Unsqueeze", "Slice", "Transpose", "Identity", "Flatten", "Gather"}
)
"""What gives no number but its first operand's."""


@dataclass(frozen=True, kw_only=True)
class DropZeroStates(ir.passes.InPlacePass):
    """Every initial state of an LSTM, a GRU or an RNN that is zero at any batch."""

    name: ClassVar[str] = "drop-zero-states"

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Leave out every match; what made it is left to dead-code removal."""
        return rewrite(model, {"LSTM", "GRU", "RNN"}, _try_drop)


def _try_drop(graph: ir.Graph, node: ir.Node) -> bool:
    dropped = [index for index in _STATES if _is_zero(input_value(node, index))]
    for index in dropped:
        node.replace_input_with(index, None)
    given = [index for index, value in enumerate(node.inputs) if value is not None]
    node.resize_inputs(max(given) + 1)
    return bool(dropped)


def _is_zero(value: ir.Value | None) -> bool:
    """Whether nothing but zeros can be in it."""
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if one is None:
            return False
        array, node = constant_array(one), one.producer()
        if array is not None:
            if array.any():
                return False
        elif node is None or node.domain != "":
            return False
        elif node.op_type == "ConstantOfShape":
            filling = node.attributes.get("value")
            if filling is not None and filling.as_tensor().numpy().any():
                return False
        elif node.op_type in _KEEP_NUMBERS:
            waiting.append(node.inputs[0])
        elif node.op_type == "Concat":
            waiting += node.inputs
        else:
            return False
    return True
