"""Forget what a network has learned: the control experiment that starts from random weights.

A Conv's, Gemm's or MatMul's weights and bias are drawn uniformly from `[-1 / sqrt(K), 1 / sqrt(K)]`, K being what one
output sums over: PyTorch's default, `kaiming_uniform_` with `a = sqrt(5)` (He et al. 2015, equation 10, with the gain
of that a). A BatchNormalization becomes gamma 1, beta 0, mean 0, variance 1.

Source: FAQ, section 3.2: "control experiments which start from random initialization".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from qpipe.ir.graph.layers import group_layers
from qpipe.nodes import constant_input, require_constant, set_constant_input
from qpipe.ops import Role
from qpipe.ops.weight_layout import output_axis


@dataclass(frozen=True, kw_only=True)
class RandomizeWeights(ir.passes.InPlacePass):
    """Give every layer of a normalized float network the weights that an untrained one has; one seed, one network."""

    name: ClassVar[str] = "randomize-weights"

    seed: int = 0

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Replace all weights, biases and statistics; constants that are no layer's stay."""
        rng = np.random.default_rng(self.seed)
        modified = False
        for layer in group_layers(model.graph):
            if layer.is_weighted:
                _draw_weight(layer.node, rng)
            for node in layer.nodes:
                if node.op_type == "BatchNormalization" and layer.role is Role.COMPUTE:
                    _reset_batch_norm(node)
            modified |= layer.role is Role.COMPUTE
        return ir.passes.PassResult(model, modified)


def _draw_weight(node: ir.Node, rng: np.random.Generator) -> None:
    weight, bias = require_constant(node, 1, "weight"), constant_input(node, 2)
    bound = (weight.size / weight.shape[output_axis(node)]) ** -0.5
    set_constant_input(node, 1, rng.uniform(-bound, bound, weight.shape).astype(np.float32))
    if bias is not None:
        set_constant_input(node, 2, rng.uniform(-bound, bound, bias.shape).astype(np.float32))


def _reset_batch_norm(node: ir.Node) -> None:
    for index, (what, value) in enumerate({"scale": 1, "bias": 0, "mean": 0, "variance": 1}.items(), start=1):
        shape = require_constant(node, index, what).shape
        set_constant_input(node, index, np.full(shape, value, np.float32))
