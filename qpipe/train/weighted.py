"""A Conv, Gemm or MatMul with its affine map, as it trains and as it is evaluated exactly.

Training computes `product(x, w_q) * k + b` in float32 with k rounded to 8 bits and b to int32 (in accumulator units),
as the exported network will have them, all straight through. Evaluation computes the same from integers, in types that
hold every sum, so it gives the file's integers.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from qpipe.arith.multiplier import FLOAT32_EXACT
from qpipe.ir.graph.affine import normalization_factor
from qpipe.ir.quantized.view import QuantizedLayer, is_trainable
from qpipe.nodes import constant_input, float_attribute, require_constant
from qpipe.ops import TorchProduct, product_of
from qpipe.ops.weight_layout import output_axis
from qpipe.settings.training import BatchNormMode
from qpipe.train.batch_norm import batch_norm_tensors
from qpipe.train.straight_through import straight_through
from qpipe.train.weight_quantizer import Affine, Rounded, WeightQuantizer

Product = Callable[..., torch.Tensor]
"""`(x, w) -> y`, or `(x, w, b) -> y` with a bias `[C]`."""
Through = Callable[[torch.Tensor], torch.Tensor]
Watch = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], None]
"""`(x, w, y)`: what a product multiplies, and what it gives, whose gradient is the error; none of them may change."""


class WeightedLayer(nn.Module):
    """Float weights, what rounds them, and the BatchNormalization's parameters or the bias.

    quantized: whether weights, multiplier and bias are rounded as the file says; else there is no `quantizer`.
    """

    mean: torch.Tensor
    variance: torch.Tensor
    offset: torch.Tensor

    def __init__(self, layer: QuantizedLayer, *, batch_norm: BatchNormMode, quantized: bool) -> None:
        super().__init__()
        self.layer, self.mode = layer, batch_norm
        self.quantizer = WeightQuantizer(layer) if quantized and is_trainable(layer) else None
        self._rounds = True
        self._op = product_of(layer.node).torch(layer.node)
        self._product: Product = self._op
        self._taps: list[Through] = []
        self._watches: list[Watch] = []
        self._lender: Callable[[], torch.Tensor] | None = None
        # Not bare: of a weight that is not rounded, the Parameter itself, a module would make one more of its own.
        self._in_use: tuple[torch.Tensor, ...] = ()
        self.weight = nn.Parameter(_values(layer))
        channels = self.weight.shape[output_axis(layer.node)]
        bias = constant_input(layer.node, 2)
        offset = torch.zeros(channels) if bias is None else torch.from_numpy(bias.copy()).reshape(-1).expand(channels)
        node = layer.batch_norm
        self.has_batch_norm = node is not None
        if node is None:
            self.beta = nn.Parameter(offset.clone(), requires_grad=bias is not None)
            self._begin()
            return
        gamma, beta, mean, variance = batch_norm_tensors(node)
        self.epsilon = float_attribute(node, "epsilon", 1e-5)
        self.momentum = 1.0 - float_attribute(node, "momentum", 0.9)
        self.gamma, self.beta = nn.Parameter(gamma), nn.Parameter(beta)
        self.register_buffer("mean", mean)
        self.register_buffer("variance", variance)
        self.register_buffer("offset", offset.clone())
        self._begin()

    def _begin(self) -> None:
        if self.quantizer is not None:
            self.quantizer.begin(self.weight, self._affine())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`x` on its grid -> the affine map's output, before activation and quantizer."""
        affine = self._affine()
        if not self.training and self.quantizer is not None:
            return self._exact(x, affine, self.quantizer)
        if not self.training:
            return self._mapped(x, self.weight, affine)
        weight, rounded = self._operand(affine)
        self._in_use = (weight,)
        if self.has_batch_norm and self.mode == "batch":
            return self._normalize(self._multiply(x, weight.to(x.dtype)), affine, rounded)
        return self._mapped(x, weight, affine, rounded)

    def replace_product(self, make: Callable[[TorchProduct], Product]) -> None:
        """Compute the layer's product by what this makes of its three primitives.

        The operands x and w are on the file's grids, where there are any, and are what the op saves for the backward;
        quantizers and affine map lie outside. It gets a bias, as a third operand, where no BatchNormalization follows.
        A layer that is quantized evaluates with the file's own op all the same.
        """
        self._product = make(self._op)

    def tap(self, through: Through) -> None:
        """Let the product go through this in training, before BatchNormalization."""
        self._taps.append(through)

    def watch(self, watch: Watch) -> None:
        """Show the operands and the result of every product of training, as they are, before any tap.

        Where the multiplier is folded into the weight, that is what the product multiplies by.
        """
        self._watches.append(watch)

    def with_bias(self, product: torch.Tensor) -> torch.Tensor:
        """The op's result as the graph has it: of a bias before a BatchNormalization the product knows nothing."""
        if not self.has_batch_norm or not self.offset.any():
            return product
        return product + self._along(self.offset.to(product.dtype), product)

    @property
    def rounds(self) -> bool:
        """Whether training rounds the weights; evaluation of a quantized layer always does."""
        return self._rounds

    def round_weights(self, rounds: bool) -> None:
        """Let training round the weights, or use them as they are."""
        self._rounds = rounds

    def borrow(self, lender: WeightedLayer) -> None:
        """Train on another layer's weight, as it quantized it in the same step, with an affine map of one's own.

        A bias without a BatchNormalization is the lender's as well.
        """
        self.weight = lender.weight
        if not self.has_batch_norm:
            self.beta = lender.beta
        self._lender = lender.weight_in_use

    def shared_parameters(self) -> list[nn.Parameter]:
        """What a layer that borrows has in common with this one."""
        return [self.weight] if self.has_batch_norm or not self.beta.requires_grad else [self.weight, self.beta]

    def weight_in_use(self) -> torch.Tensor:
        """What the last forward of training multiplied by."""
        (weight,) = self._in_use
        return weight

    def quantized_weight(self) -> torch.Tensor:
        """The weight on its grid as it would be in a step that began now; nothing of the layer changes."""
        return self.weight if self.quantizer is None else self.quantizer.on_grid(self.weight, self._affine())

    def refresh(self) -> None:
        """Let evaluation have the exponents of the weights as they are now."""
        if self.quantizer is not None:
            self.quantizer.refresh(self.weight, self._affine())

    def _affine(self) -> Affine:
        """k = gamma / sqrt(var + eps), or 1; and the running mean of the product without its bias, or 0."""
        beta = self.beta.double()
        if not self.has_batch_norm:
            return Affine(torch.ones_like(beta), beta, torch.zeros_like(beta))
        k: torch.Tensor = normalization_factor(self.gamma.double(), self.variance.double(), self.epsilon)
        return Affine(k, beta, self.mean.double() - self.offset.double())

    def _operand(self, affine: Affine) -> tuple[torch.Tensor, Rounded | None]:
        """What this step multiplies by; and what that was rounded to, if it was."""
        if self._lender is not None:
            return self._lender(), None
        if self.quantizer is None:
            return self.weight, None
        if not self._rounds:
            return self.quantizer.unrounded(self.weight), None
        rounded: Rounded = self.quantizer(self.weight, affine)
        return rounded.weight, rounded

    def _multiply(self, x: torch.Tensor, *operands: torch.Tensor) -> torch.Tensor:
        y = self._product(x, *operands)
        if not self.training:
            return y
        for watch in self._watches:
            watch(x, operands[0], y)
        for through in self._taps:
            y = through(y)
        return y

    @property
    def _folds(self) -> bool:
        """Whether k may be multiplied into the weight instead of the product: cheaper, where nobody minds."""
        return self._product is self._op and not self._taps

    def _mapped(
        self, x: torch.Tensor, weight: torch.Tensor, affine: Affine, rounded: Rounded | None = None
    ) -> torch.Tensor:
        """`k * product + b` in float32, k and b rounded straight through where the weight is."""
        k, b = affine.k, affine.beta - affine.centre * affine.k
        if rounded is not None:
            k, b = straight_through(k, rounded.k), straight_through(b, rounded.b)
        if not self.has_batch_norm:
            return self._multiply(x, weight.to(x.dtype), b.to(x.dtype))
        if self._folds:
            folded = weight * along(k.float(), weight, output_axis(self.layer.node))
            return self._multiply(x, folded.to(x.dtype), b.to(x.dtype))
        y = self._multiply(x, weight.to(x.dtype))
        return y * self._along(k.to(y.dtype), y) + self._along(b.to(y.dtype), y)

    def _normalize(self, product: torch.Tensor, affine: Affine, rounded: Rounded | None) -> torch.Tensor:
        """Batch normalization by the batch's own statistics; k and b err by what rounding makes them in the file."""
        gamma: torch.Tensor = self.gamma
        beta: torch.Tensor = self.beta
        if rounded is not None:
            with torch.no_grad():
                ratio = torch.where(affine.k == 0, 1.0, rounded.k / affine.k).float()
                error = (rounded.b - (affine.beta - affine.centre * rounded.k)).float()
            gamma = straight_through(gamma, gamma.detach() * ratio)
            beta = straight_through(beta, beta.detach() + error)
        running = self.mean - self.offset
        y = F.batch_norm(product, running, self.variance, gamma, beta, True, self.momentum, self.epsilon)
        self.mean = running + self.offset
        return y

    @torch.no_grad()
    def _exact(self, x: torch.Tensor, affine: Affine, quantizer: WeightQuantizer) -> torch.Tensor:
        """float64, every value exact: integers are summed in the narrowest float type that holds every sum."""
        codes, bias, unit, largest = quantizer.shipped(self.weight, affine)
        kind = torch.float32 if largest <= FLOAT32_EXACT else torch.float64
        # cuDNN may choose a transform, or TF32, which round.
        with torch.backends.cudnn.flags(enabled=False):
            accumulator = self._op((x / quantizer.source.scale).to(kind), codes.to(kind)).double()
        return (accumulator + self._along(bias, accumulator)) * self._along(unit, accumulator)

    def _along(self, values: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        """`[C]` along the output's channels."""
        return along(values, like, product_of(self.layer.node).channel_axis)


def along(values: torch.Tensor, like: torch.Tensor, axis: int) -> torch.Tensor:
    """`[C]` shaped to broadcast along an axis."""
    shape = [1] * like.ndim
    shape[axis] = -1
    return values.reshape(shape)


def _values(layer: QuantizedLayer) -> torch.Tensor:
    """A copy of the weight."""
    values = layer.weight.array if is_trainable(layer) else require_constant(layer.node, 1, "weight")
    return torch.from_numpy(np.array(values, np.float32, order="C"))
