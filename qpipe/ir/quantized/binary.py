"""Give a layer binary weights, and its input the sign (see `qpipe.arith.binary`)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import onnx_ir as ir

from qpipe.arith.binary import BinarySpec, base_grid, nominal_exponent, sign_table
from qpipe.arith.spec import QuantSpec
from qpipe.errors import LoweringError, RecipeError
from qpipe.ir.graph.binary_blocks import BinaryBlock
from qpipe.ir.graph.layers import Layer
from qpipe.ir.quantized.insert_weight import insert_weight_quantizer
from qpipe.ir.quantized.plan import EDGE_BITS, QuantizationPlan
from qpipe.ir.quantized.qdq import insert_activation_quantizer
from qpipe.ir.quantized.weight_layout import to_rows
from qpipe.nodes import describe, require_constant


def check_binary(plan: QuantizationPlan, binary: frozenset[str]) -> None:
    """Raise an error that names the first layer that can't be binary.

    Raises:
        LoweringError: the network has no layers that were made ready for signs, or one of them no BatchNormalization
            behind it, whose multiplier could hold the mean magnitude.
        RecipeError: a layer's own options give a binary layer bits.
    """
    if not binary:
        raise LoweringError("no layer is marked as binary, expected a network that went through "
                            "shortcut-every-convolution or expand-bases")  # fmt: skip
    for layer in plan.layers:
        if layer.name not in binary:
            continue
        if plan.weight_bits[layer.node] != EDGE_BITS:
            raise RecipeError(
                f"{describe(layer.node)}: {plan.weight_bits[layer.node]}-bit weights, expected no bits given: a binary "
                "layer has one"
            )
        if layer.batch_norm is None:
            raise LoweringError(f"{describe(layer.node)}: no BatchNormalization follows it, expected one to be binary")


def quantize_binary(model: ir.Model, layer: Layer) -> None:
    """Insert the quantizer of weights, on the nominal scale nearest to their mean magnitude."""
    weight = require_constant(layer.node, 1, "weight").astype(np.float32)
    rows = to_rows(layer.node, weight)
    spec = BinarySpec(nominal_exponent(rows))
    insert_weight_quantizer(model, layer.node, weight, np.full(len(rows), spec.exponent, np.int64), spec)


def insert_signs(
    graph: ir.Graph, plan: QuantizationPlan, specs: Mapping[ir.Value, QuantSpec], binary: frozenset[str]
) -> None:
    """A table of signs behind the grid of each tensor that binary layers read, one for all that do."""
    signs: dict[ir.Value, ir.Value | None] = {}
    for layer in plan.layers:
        if layer.name not in binary:
            continue
        value = layer.inputs[0]
        if value in signs:
            layer.node.replace_input_with(0, signs[value])
        else:
            insert_activation_quantizer(graph, value, sign_table(specs[value]), only=layer.node, suffix=layer.name)
            signs[value] = layer.node.inputs[0]


def base_grids(
    plan: QuantizationPlan, specs: Mapping[ir.Value, QuantSpec], blocks: Iterable[BinaryBlock]
) -> dict[ir.Value, QuantSpec]:
    """The grids of bases and of their partial sums, in the place of those that each tensor would have alone."""
    found: dict[ir.Value, QuantSpec] = {}
    adds = {layer.name: layer for layer in plan.layers if layer.op_type == "Add"}
    for block in blocks:
        sums = [adds[name] for name in block.sums if name in adds]
        totals = {add.output for add in sums}
        bases = [value for add in sums for value in add.inputs if value not in totals]
        if bases:
            common = base_grid([specs[value] for value in bases])
            found |= dict.fromkeys(bases, common) | dict.fromkeys(totals, QuantSpec.signed(EDGE_BITS, common.exponent))
    return found
