"""Relu, or Clip from 0, that stands alone (after a carrier, or beside another reader): a clip of the integers."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import onnx_ir as ir

from qpipe.arith.spec import QuantSpec
from qpipe.ir.layers import activation_bound
from qpipe.ops.base import Op

if TYPE_CHECKING:
    import torch

    from qpipe.ops.base import TorchFunction


class Activation(Op):
    """`min(max(x, 0), bound)`; the bound is rounded to the grid."""

    op_types = ("Relu", "Clip")

    def torch(self, node: ir.Node) -> TorchFunction:
        """`x -> min(max(x, 0), bound)`."""
        bound = activation_bound(node)
        assert bound is not None

        def run(x: torch.Tensor) -> torch.Tensor:
            return x.relu() if math.isinf(bound) else x.clamp(0.0, bound)

        return run

    def carried(self, node: ir.Node, sources: Sequence[QuantSpec]) -> QuantSpec:
        """The input's grid, cut at 0 and at the bound; a zero point stays."""
        source, bound = sources[0], activation_bound(node)
        assert bound is not None
        top = source.qmax if math.isinf(bound) else min(source.qmax, round(bound / source.scale))
        return dataclasses.replace(source, qmin=max(source.qmin, 0), qmax=top)
