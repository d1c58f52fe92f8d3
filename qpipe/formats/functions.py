"""Quantizers that are not affine, as ONNX functions of the domain `qpipe`: a trainable file that has one runs anywhere.

They stand between a weight's float values and its DequantizeLinear, and give the int8 codes; `finalize` bakes the codes
(of the format's own arithmetic, in float64) into integer initializers, so nothing that ships holds one. A body computes
in float32, where a weight that lies on the edge between two codes may get the other one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx_ir as ir

from qpipe.nodes import DOMAIN


def call_function(
    model: ir.Model, function: Any, inputs: Sequence[ir.Value], node_name: str, **attributes: Any
) -> ir.Node:
    """A node that calls an onnxscript function, a weight first; the model gets the function where it is missing."""
    found = ir.serde.deserialize_function(function.to_function_proto())
    model.functions.setdefault(found.identifier(), found)
    model.opset_imports[DOMAIN] = 1
    return ir.node(found.name, inputs, attributes, domain=DOMAIN, name=node_name)
