"""Recurrent layers, which stay float: what they cost."""

from __future__ import annotations

from typing import Final

import onnx_ir as ir

from qpipe.nodes import STANDARD_DOMAINS, int_attribute, static_shape

_GATES: Final = {"LSTM": 4, "GRU": 3, "RNN": 1}


def sequence_macs(node: ir.Node) -> int | None:
    """Multiply-accumulates of an LSTM, a GRU or an RNN for one sequence; 0 of other nodes, None of unknown sizes.

    In each of T steps and D directions the gates multiply the input `[I]` and the state `[H]`: `T D g H (I + H)`.
    """
    gates = _GATES.get(node.op_type, 0) if node.domain in STANDARD_DOMAINS else 0
    if not gates:
        return 0
    x, weight = static_shape(node.inputs[0]), static_shape(node.inputs[1])
    if x is None or weight is None or len(x) != 3 or len(weight) != 3:
        return None
    steps, inputs = x[int_attribute(node, "layout", 0)], x[2]
    directions, rows = weight[0], weight[1]
    if steps is None or inputs is None or directions is None or rows is None:
        return None
    return steps * directions * rows * (inputs + rows // gates)
