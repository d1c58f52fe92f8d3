"""Let a BatchNormalization that was exported while it trained use its running statistics, as it does at inference.

    BatchNormalization(x, gamma, beta, mean, var, training_mode = 1) -> y, m', v'
    becomes     gamma (x - mean) / sqrt(var + eps) + beta     of the running mean and var, where nobody reads m', v'

This is the one rewrite that changes numbers: in training mode y hangs on what else is in the batch. A network that is
quantized is for inference, so it is said, and done. Source: ONNX operator specification, BatchNormalization-15.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from qpipe.ir.graph.rewrite import rewrite
from qpipe.nodes import constant_input, describe, int_attribute
from qpipe.progress import say


@dataclass(frozen=True, kw_only=True)
class FreezeBatchNorm(ir.passes.InPlacePass):
    """Every BatchNormalization in training mode whose statistics are constants, and of which y alone is read."""

    name: ClassVar[str] = "freeze-batch-norm"

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Freeze every match."""
        return rewrite(model, {"BatchNormalization"}, _try_freeze)


def _try_freeze(_: ir.Graph, node: ir.Node) -> bool:
    if not int_attribute(node, "training_mode", 0) or any(constant_input(node, i) is None for i in range(1, 5)):
        return False
    if any(value.uses() or value.is_graph_output() for value in node.outputs[1:]):
        return False
    say(f"{describe(node)} was exported in training mode: it uses its running mean and variance from now on")
    del node.attributes["training_mode"]
    node.resize_outputs(1)
    return True
