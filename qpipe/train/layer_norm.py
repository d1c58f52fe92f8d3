"""A LayerNormalization as it trains: the integers that it will be, with the gradient of the real one."""

from __future__ import annotations

import torch
from torch import nn

from qpipe.ir.quantized.view import QuantizedLayer, RequantizedLayer
from qpipe.nodes import input_value
from qpipe.ops.layer_norm import normalized, parameters_of


class LayerNorm(nn.Module):
    """gamma and beta; of a quantized layer both, and all that it computes, are rounded as the file says.

    quantized: whether the layer is.
    """

    def __init__(self, layer: QuantizedLayer, *, quantized: bool) -> None:
        super().__init__()
        self.node, self._run = layer.node, layer.op.torch(layer.node)
        self._layer = layer if quantized and isinstance(layer, RequantizedLayer) else None
        gamma, beta = (torch.from_numpy(array.copy()) for array in parameters_of(layer.node))
        self.has_beta = input_value(layer.node, 2) is not None
        self.gamma, self.beta = nn.Parameter(gamma), nn.Parameter(beta, requires_grad=self.has_beta)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`x [..., K]` on its grid -> before the quantizer; float64 in the evaluation of a quantized layer."""
        if self._layer is not None and not self.training:
            return self._rounded(self._layer, x)
        y: torch.Tensor = self._run(x.float(), self.gamma, self.beta)
        if self._layer is None:
            return y.to(x.dtype)
        found = self._rounded(self._layer, x)
        # What is added is 0, to the last bit, and has the gradient.
        return (found.to(y.dtype) + (y - y.detach())).to(x.dtype)

    def borrow(self, lender: LayerNorm) -> None:
        """Train on another one's parameters."""
        self.gamma, self.beta = lender.gamma, lender.beta

    @torch.no_grad()
    def _rounded(self, layer: RequantizedLayer, x: torch.Tensor) -> torch.Tensor:
        """As the finalized file has it."""
        return normalized(layer, x, self.gamma.double(), self.beta.double())
