"""What kind of model a file is: float, QDQ (trainable or final), or an export.

A float network may store its weights as integers: then no quantizer reads or gives an activation, or only such as take
their scale from each run's data.
"""

from __future__ import annotations

import enum

import onnx_ir as ir

from qpipe.errors import ModelError
from qpipe.ir.quantized.view import View, read_view
from qpipe.ops.quantizer_parts import quantizes_anew, quantizes_data

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
    kind = _kind_of_ops(model)
    if kind is not Kind.FOREIGN:
        return kind, None
    try:
        view = read_view(model)
    except ModelError:
        return Kind.FOREIGN, None
    return Kind.FINAL if view.is_final else Kind.TRAINABLE, view


def is_float(model: ir.Model) -> bool:
    """Whether nothing of the model is quantized: its ops tell, without reading a QDQ file."""
    return _kind_of_ops(model) is Kind.FLOAT


def require_float(model: ir.Model, name: str) -> None:
    """Raise ModelError unless the model is float."""
    kind, _ = find_kind(model)
    if kind is not Kind.FLOAT:
        raise ModelError(f"{name}: is quantized already ({kind.value}), expected a float network")


def require_qdq(model: ir.Model, name: str) -> None:
    """Raise ModelError for a float network and for an export; whether a QDQ file can be read, reading it will tell."""
    kind = _kind_of_ops(model)
    if kind is Kind.FLOAT:
        raise ModelError(f"{name}: not a quantized model, expected a QDQ file; run `qpipe calibrate` first")
    if kind is not Kind.FOREIGN:
        raise ModelError(f"{name}: is an export ({kind.value}), expected the QDQ file that it was made from")


def _kind_of_ops(model: ir.Model) -> Kind:
    """FOREIGN stands for every QDQ file, until it is read."""
    if any(map(quantizes_anew, model.graph)):
        return Kind.FLOAT
    ops = {node.op_type for node in model.graph}
    if any(op.startswith("QLinear") or op == "QGemm" for op in ops):
        return Kind.QOPERATOR
    if ops & _INTEGER_OPS:
        return Kind.INTEGER
    return Kind.FOREIGN if quantizes_data(model.graph) else Kind.FLOAT
