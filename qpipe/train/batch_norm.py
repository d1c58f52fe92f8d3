"""A BatchNormalization that stands alone, as the depthwise convolution that it will be, on running statistics."""

from __future__ import annotations

import onnx_ir as ir
import torch
from torch import nn

from qpipe.arith.multiplier import fit_alone
from qpipe.arith.spec import QuantSpec
from qpipe.ir.graph.affine import normalization_factor
from qpipe.ir.quantized.view import QuantizedLayer
from qpipe.nodes import float_attribute, require_constant
from qpipe.train.straight_through import straight_through


def batch_norm_tensors(node: ir.Node) -> tuple[torch.Tensor, ...]:
    """gamma, beta, mean and variance of a BatchNormalization node, float32 `[C]`."""
    return tuple(
        torch.from_numpy(require_constant(node, i + 1, name).astype("float32"))
        for i, name in enumerate(("scale", "bias", "mean", "variance"))
    )


class StandaloneBatchNorm(nn.Module):
    """`k x + b` with k an 8-bit weight and b int32, both straight through."""

    mean: torch.Tensor
    variance: torch.Tensor

    def __init__(self, layer: QuantizedLayer) -> None:
        super().__init__()
        self.layer = layer
        self.source: QuantSpec | None = layer.sources[0].spec if layer.sources else None
        self.target: QuantSpec | None = layer.quantizer.before if layer.quantizer is not None else None
        gamma, beta, mean, variance = batch_norm_tensors(layer.node)
        self.epsilon = float_attribute(layer.node, "epsilon", 1e-5)
        self.gamma, self.beta = nn.Parameter(gamma), nn.Parameter(beta)
        self.register_buffer("mean", mean)
        self.register_buffer("variance", variance)
        self.run = layer.op.torch(layer.node)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`x [N, C, ...]`; float64 in the evaluation of a quantized graph, where every value is exact."""
        k = normalization_factor(self.gamma.double(), self.variance.double(), self.epsilon, torch)
        mean = self.mean.double()
        b = self.beta.double() - k * mean
        if self.source is not None and self.target is not None:
            with torch.no_grad():
                codes, exponent, integers = fit_alone(
                    k, self.beta.double(), mean, source=self.source, output=self.target, xp=torch
                )
                unit = torch.ldexp(integers.multiplier, integers.exponent + exponent)
                rounded_k, rounded_b = codes * unit, integers.bias * unit * self.source.scale
            k, b = straight_through(k, rounded_k), straight_through(b, rounded_b)
        if self.training or self.source is None:
            return self.run(x, k.float(), b.float())
        return self.run(x.double(), k, b)
