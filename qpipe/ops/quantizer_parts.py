"""The nodes that a quantizer is written with, as those who read a graph must tell them from what computes."""

from __future__ import annotations

from typing import Final

import onnx_ir as ir

from qpipe.nodes import DOMAIN, STANDARD_DOMAINS, reads

_QUANTIZE: Final = "QuantizeLinear"
_DEQUANTIZE: Final = "DequantizeLinear"
_CODES: Final = frozenset({"Clip", "Cast", "Gather", "GatherElements", "Reshape"})


def quantizes(node: ir.Node | None) -> bool:
    """Whether it makes integers of real numbers."""
    return node is not None and node.op_type == _QUANTIZE and node.domain in STANDARD_DOMAINS


def dequantizes(node: ir.Node | None) -> bool:
    """Whether it makes real numbers of integers."""
    return node is not None and node.op_type == _DEQUANTIZE and node.domain in STANDARD_DOMAINS


def is_border(node: ir.Node) -> bool:
    """Whether it is either, between real numbers and integers."""
    return quantizes(node) or dequantizes(node)


def quantizes_anew(node: ir.Node) -> bool:
    """Whether it makes integers by a scale that it takes from its operand in each run."""
    return node.op_type == "DynamicQuantizeLinear" and node.domain in STANDARD_DOMAINS


def quantizes_data(graph: ir.Graph) -> bool:
    """Whether any quantizer hangs on an input of the graph; those of constants alone are how weights are stored."""
    data = {value for value in graph.inputs if not value.is_initializer()}
    for node in graph:
        if not data.isdisjoint(reads(node)):
            if is_border(node):
                return True
            data.update(node.outputs)
    return False


def may_change_codes(node: ir.Node) -> bool:
    """Whether, between the two, it can be a part of the quantizer: the range, or a table."""
    return node.op_type in _CODES


def limits_codes(node: ir.Node) -> bool:
    """Whether, behind a QuantizeLinear, it says a narrower range."""
    return node.op_type == "Clip"


def stored(value: ir.Value | None) -> ir.Value | None:
    """What a weight's or a bias's quantizer reads; the value itself where no part of a quantizer gives it."""
    while value is not None and (node := value.producer()) is not None:
        if not (node.domain == DOMAIN or is_border(node) or node.op_type in {"Clip", "Cast"}):
            break
        value = node.inputs[0]
    return value
