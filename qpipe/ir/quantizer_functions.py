"""Quantizers that are not affine, as ONNX functions of the domain `qpipe`: a trainable file that has one runs anywhere.

They stand between a weight's float values and its DequantizeLinear, and give the int8 codes; `finalize` bakes the codes
(`qpipe.arith.codes`, in float64) into integer initializers, so nothing that ships holds one. The body computes in
float32, where a weight that lies on the edge between two codes may get the other one.
"""

from __future__ import annotations

from typing import Final, no_type_check

import onnx_ir as ir
from onnxscript import FLOAT, INT8, script
from onnxscript import opset21 as op
from onnxscript.values import Opset

DOMAIN: Final = "qpipe"
DOREFA: Final = "DoReFaCodes"
SIGN: Final = "SignCodes"


# onnxscript compiles this from its source; the operators' types mean nothing to a checker of Python.
@no_type_check
@script(Opset(DOMAIN, 1), default_opset=op)
def DoReFaCodes(w: FLOAT[...], bits: int) -> INT8[...]:  # noqa: N802
    """`2 round((n tanh(w) / max |tanh(w)| + n) / 2) - n`, n = 2**bits - 1 (see `qpipe.arith.dorefa`)."""
    width = op.Cast(op.Constant(value_int=bits), to=1)
    n = op.Pow(2.0, width) - 1.0
    squashed = op.Tanh(w)
    largest = op.Max(op.ReduceMax(op.Abs(squashed), keepdims=0), 1e-30)
    return op.Cast(op.Round((squashed / largest * n + n) / 2.0) * 2.0 - n, to=3)


@no_type_check
@script(Opset(DOMAIN, 1), default_opset=op)
def SignCodes(w: FLOAT[...]) -> INT8[...]:  # noqa: N802
    """-1 where a weight is below 0, else +1 (see `qpipe.arith.binary`)."""
    return op.Cast(op.Where(w >= 0.0, 1.0, -1.0), to=3)


_FUNCTIONS: Final = {DOREFA: DoReFaCodes, SIGN: SignCodes}


def call_function(model: ir.Model, name: str, value: ir.Value, node_name: str, **attributes: int) -> ir.Node:
    """A node that calls the function on a weight, and the function itself in the model where it is missing."""
    function = ir.serde.deserialize_function(_FUNCTIONS[name].to_function_proto())
    model.functions.setdefault(function.identifier(), function)
    model.opset_imports[DOMAIN] = 1
    integers = [ir.AttrInt64(key, number) for key, number in attributes.items()]
    return ir.Node(DOMAIN, name, [value], integers, name=node_name)
