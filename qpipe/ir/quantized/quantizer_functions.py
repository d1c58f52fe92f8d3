"""Quantizers that are not affine, as ONNX functions of the domain `qpipe`: a trainable file that has one runs anywhere.

They stand between a weight's float values and its DequantizeLinear, and give the int8 codes; `finalize` bakes the codes
(`qpipe.arith.codes`, in float64) into integer initializers, so nothing that ships holds one. The body computes in
float32, where a weight that lies on the edge between two codes may get the other one. (LQ-Net's levels are integers,
and what lies between two of them is exact: there the file's codes are the baked ones.)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, no_type_check

import onnx_ir as ir
from onnxscript import FLOAT, INT8, script
from onnxscript import opset21 as op
from onnxscript.values import Opset

from qpipe.formats.functions import DOMAIN

LQ: Final = "LQCodes"
SIGN: Final = "SignCodes"


# onnxscript compiles this from its source; the operators' types mean nothing to a checker of Python.
@no_type_check
@script(Opset(DOMAIN, 1), default_opset=op)
def LQCodes(w: FLOAT[...], basis: FLOAT[...], scale: FLOAT[...], bits: int, shape: Sequence[int]) -> INT8[...]:  # noqa: N802
    """The integer level nearest to each weight (see `qpipe.arith.lq`); shape broadcasts `[C]` along the weight."""
    count = op.Constant(value_int=bits)
    along = op.Constant(value_ints=shape)
    powers = op.Pow(2, op.Range(0, count, 1))
    numbers = op.Unsqueeze(op.Range(0, op.Pow(2, count), 1), [0])
    signs = op.Cast(op.Mod(op.Div(numbers, op.Unsqueeze(powers, [1])), 2) * 2 - 1, to=11)
    levels = op.MatMul(op.Cast(basis, to=11), signs) / op.Unsqueeze(op.Cast(scale, to=11), [1])
    ascending, _ = op.TopK(op.Round(levels), op.Unsqueeze(op.Pow(2, count), [0]), axis=-1, largest=0)
    steps = op.Cast(op.Transpose(ascending, perm=[1, 0]), to=1)
    below = op.Slice(steps, [0], [-1], [0])
    above = op.Slice(steps, [1], [17], [0])
    each = op.Concat([-1], along, axis=0)
    passed = op.Cast(op.Unsqueeze(w / op.Reshape(scale, along), [0]) > op.Reshape((below + above) / 2.0, each), to=1)
    climbed = op.ReduceSum(passed * op.Reshape(above - below, each), [0], keepdims=0)
    lowest = op.Reshape(op.Slice(steps, [0], [1], [0]), along)
    return op.Cast(lowest + climbed, to=3)


@no_type_check
@script(Opset(DOMAIN, 1), default_opset=op)
def SignCodes(w: FLOAT[...]) -> INT8[...]:  # noqa: N802
    """-1 where a weight is below 0, else +1 (see `qpipe.arith.binary`)."""
    return op.Cast(op.Where(w >= 0.0, 1.0, -1.0), to=3)


_FUNCTIONS: Final = {LQ: LQCodes, SIGN: SignCodes}


def call_function(model: ir.Model, name: str, inputs: Sequence[ir.Value], node_name: str, **attributes: Any) -> ir.Node:
    """A node that calls the function, a weight first, and the function itself in the model where it is missing."""
    function = ir.serde.deserialize_function(_FUNCTIONS[name].to_function_proto())
    model.functions.setdefault(function.identifier(), function)
    model.opset_imports[DOMAIN] = 1
    return ir.node(name, inputs, attributes, domain=DOMAIN, name=node_name)
