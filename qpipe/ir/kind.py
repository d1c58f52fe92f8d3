"""What kind of model a file is: float, QDQ (trainable or final), or an export."""

from __future__ import annotations

import enum

import onnx_ir as ir

from qpipe.errors import ModelError
from qpipe.ir.view import View, read_view

_QDQ_OPS = frozenset({"QuantizeLinear", "DequantizeLinear"})
_INTEGER_OPS = frozenset({"MatMulInteger", "ConvInteger"})


class Kind(enum.Enum):
    """The kinds, in the words of messages and tables."""

    FLOAT = "float"
    TRAINABLE = "QDQ, trainable"
    FINAL = "QDQ, final"
    QOPERATOR = "qoperator"
    INTEGER = "integer"
    FOREIGN = "QDQ of another form"


def find_kind(model: ir.Model) -> tuple[Kind, View | None]:
    """The kind, by the model's ops; a QDQ model comes with its view."""
    ops = {node.op_type for node in model.graph}
    if any(op.startswith("QLinear") or op == "QGemm" for op in ops):
        return Kind.QOPERATOR, None
    if ops & _INTEGER_OPS:
        return Kind.INTEGER, None
    if not ops & _QDQ_OPS:
        return Kind.FLOAT, None
    try:
        view = read_view(model)
    except ModelError:
        return Kind.FOREIGN, None
    return Kind.FINAL if view.is_final else Kind.TRAINABLE, view
