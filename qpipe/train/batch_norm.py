"""A BatchNormalization that stands alone, as the depthwise convolution that it will be, on running statistics."""

from __future__ import annotations

import onnx_ir as ir
import torch
from torch import nn

from qpipe.arith.multiplier import fit_alone
from qpipe.arith.spec import QuantSpec
from qpipe.ir.graph.affine import normalization_factor
from qpipe.nodes import float_attribute, require_constant
from qpipe.ops import OPS
from qpipe.train.straight_through import straight_through


def batch_norm_tensors(node: ir.Node) -> tuple[torch.Tensor, ...]:
    """gamma, beta, mean and variance of a BatchNormalization node, float32 `[C]`."""
    return tuple(
        torch.from_numpy(require_constant(node, i + 1, name).astype("float32"))
        for i, name in enumerate(("scale", "bias", "mean", "variance"))
    )


class StandaloneBatchNorm(nn.Module):
    """`k x + b`, with k an 8-bit weight and b int32, both straight through, where it is rounded.

    node: the BatchNormalization. grids: of what it reads and of what it gives; None leaves k and b as they are.
    """

    mean: torch.Tensor
    variance: torch.Tensor

    def __init__(self, node: ir.Node, grids: tuple[QuantSpec, QuantSpec] | None) -> None:
        super().__init__()
        self.node, self._grids = node, grids
        gamma, beta, mean, variance = batch_norm_tensors(node)
        self.epsilon = float_attribute(node, "epsilon", 1e-5)
        self.gamma, self.beta = nn.Parameter(gamma), nn.Parameter(beta)
        self.register_buffer("mean", mean)
        self.register_buffer("variance", variance)
        self._run = OPS[node.op_type].torch(node)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`x [N, C, ...]`; float64 in the evaluation of a quantized graph, where every value is exact."""
        k = normalization_factor(self.gamma.double(), self.variance.double(), self.epsilon)
        mean = self.mean.double()
        b = self.beta.double() - k * mean
        if self._grids is None:
            return self._run(x, k.float(), b.float())
        source, target = self._grids
        with torch.no_grad():
            codes, exponent, integers = fit_alone(k, self.beta.double(), mean, source=source, output=target)
            unit = torch.ldexp(integers.multiplier, integers.exponent + exponent)
            rounded_k, rounded_b = codes * unit, integers.bias * unit * source.scale
        k, b = straight_through(k, rounded_k), straight_through(b, rounded_b)
        if self.training:
            return self._run(x, k.float(), b.float())
        return self._run(x.double(), k, b)
