"""A Conv, Gemm or MatMul with its affine map, as it trains and as it is evaluated exactly.

Training computes `product(x, w_q) * k + b` in float32 with k rounded to 8 bits and b to int32 (in accumulator units),
as the exported network will have them, all straight through. Evaluation computes the same from integers, in types that
hold every sum, so it gives the file's integers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from qpipe.arith.multiplier import FLOAT32_EXACT, IntegerAffine, fit
from qpipe.arith.spec import QuantSpec
from qpipe.formats.base import WeightFormat
from qpipe.ir.graph.affine import normalization_factor
from qpipe.ir.quantized.view import QuantizedLayer, is_trainable
from qpipe.nodes import constant_input, float_attribute
from qpipe.ops import product_of
from qpipe.ops.weight_layout import output_axis, to_rows, to_weight
from qpipe.settings.training import BatchNormMode
from qpipe.train.batch_norm import batch_norm_tensors
from qpipe.train.straight_through import channels_last, straight_through

Product = Callable[..., torch.Tensor]
_QUIET = np.errstate(over="ignore", invalid="ignore")  # it is the loss that says that a run diverged


class WeightedLayer(nn.Module):
    """Float weights, their exponents, and the BatchNormalization's parameters or the bias.

    `product(x, w, b)` is the one op of the layer; its operands are the quantized ones. Replace it to compute forward,
    gradient to the input and gradient to the weight in another arithmetic, and set `folds` to False: while it is True
    and BatchNormalization runs on running statistics, k is multiplied into the weight instead of the product.
    `rounds` False: training uses the weights before they are rounded; evaluation never does.
    """

    exponent: torch.Tensor
    mean: torch.Tensor
    variance: torch.Tensor
    offset: torch.Tensor
    basis: torch.Tensor | None

    def __init__(self, layer: QuantizedLayer, values: torch.Tensor, *, batch_norm: BatchNormMode) -> None:
        super().__init__()
        self.layer = layer
        self.spec: WeightFormat | None = None
        self.source: QuantSpec | None = layer.sources[0].spec if layer.sources else None
        self.target: QuantSpec | None = layer.quantizer.before if layer.quantizer is not None else None
        self.product: Product = layer.op.torch(layer.node)
        self.mode = batch_norm
        self.folds = True
        self.rounds = True
        self._lender: Callable[[], torch.Tensor] | None = None
        # Not bare: of a weight that is not rounded, the Parameter itself, a module would make one more of its own.
        self._in_use: tuple[torch.Tensor, ...] = ()
        self.weight = nn.Parameter(values.clone())
        channels = values.shape[output_axis(layer.node)]
        basis = None
        if is_trainable(layer):
            self.spec = layer.weight.spec
            self.register_buffer("exponent", torch.from_numpy(layer.weight.exponents.copy()))
            basis = layer.weight.basis_array
        self.register_buffer("basis", None if basis is None else torch.from_numpy(basis.copy()))
        bias = constant_input(layer.node, 2)
        offset = torch.zeros(channels) if bias is None else torch.from_numpy(bias.copy()).reshape(-1).expand(channels)
        node = layer.batch_norm
        self.has_batch_norm = node is not None
        if node is None:
            self.beta = nn.Parameter(offset.clone(), requires_grad=bias is not None)
            return
        gamma, beta, mean, variance = batch_norm_tensors(node)
        self.epsilon = float_attribute(node, "epsilon", 1e-5)
        self.momentum = 1.0 - float_attribute(node, "momentum", 0.9)
        self.gamma, self.beta = nn.Parameter(gamma), nn.Parameter(beta)
        self.register_buffer("mean", mean)
        self.register_buffer("variance", variance)
        self.register_buffer("offset", offset.clone())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`x` on its grid -> the affine map's output, before activation and quantizer."""
        if not self.training:
            return self._exact(x) if self.spec is not None else self._apply_affine(x, self.weight, None)
        weight, magnitude = self._own_weight() if self._lender is None else (self._lender(), None)
        self._in_use = (weight,)
        if self._lender is None:
            self._learn()
        if self.has_batch_norm and self.mode == "batch":
            return self._with_batch_statistics(self.product(x, weight.to(x.dtype)), magnitude)
        return self._apply_affine(x, weight, magnitude)

    def with_bias(self, product: torch.Tensor) -> torch.Tensor:
        """The op's result as the graph has it: of a bias before a BatchNormalization the product knows nothing."""
        if not self.has_batch_norm or not self.offset.any():
            return product
        return product + self._along(self.offset.to(product.dtype), product)

    def borrow(self, lender: WeightedLayer) -> None:
        """Train on another layer's weight, as it quantized it in the same step, with an affine map of one's own.

        The map stays unrounded.
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
        """The weight on its grid, exponents computed anew (FAQ, section 3.1.1); the gradient is the float weight's."""
        return self._on_grid()[0]

    def _own_weight(self) -> tuple[torch.Tensor, torch.Tensor | None]:
        """What training multiplies by: `_on_grid`, or where it does not round, the weight alone."""
        if self.spec is not None and not self.rounds:
            return self.spec.unrounded(self.weight, torch), None
        return self._on_grid()

    def _on_grid(self) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The quantized weight, and the sum of each channel's codes' magnitudes, float64 `[C]`."""
        if self.spec is None:
            return self.weight, None
        with torch.no_grad():
            codes, self.exponent = self._quantize(self.spec)
            on_grid = torch.ldexp(codes, self.exponent[:, None])
            quantized = channels_last(to_weight(self.layer.node, on_grid, tuple(self.weight.shape)))
            magnitude = codes.abs().sum(1, dtype=torch.float64)
            values = self.weight.detach()
        rounded_from = self.spec.rounded_from(self.weight, values, output_axis(self.layer.node), torch)
        return straight_through(rounded_from, quantized), magnitude

    @torch.no_grad()
    @_QUIET
    def _learn(self) -> None:
        """The basis for the steps to come."""
        if self.basis is None or self.spec is None or not self.rounds:
            return
        xp, (rows, basis) = _arrays(to_rows(self.layer.node, self.weight), self.basis)
        self.basis = torch.as_tensor(self.spec.learn(rows, basis, xp))

    @torch.no_grad()
    def refresh(self) -> None:
        """Recompute the exponents from the float weights as they are now: what is evaluated and written uses these."""
        if self.spec is not None:
            _, self.exponent = self._quantize(self.spec)

    @torch.no_grad()
    @_QUIET
    def _quantize(self, spec: WeightFormat) -> tuple[torch.Tensor, torch.Tensor]:
        assert self.source is not None
        tensors = (to_rows(self.layer.node, self.weight), self._factor(), self.beta.double(), self._basis())
        xp, (rows, k, beta, basis) = _arrays(*tensors)
        codes, exponent = spec.quantize(rows, k, beta, source=self.source, output=self.target, basis=basis, xp=xp)
        return torch.as_tensor(codes), torch.as_tensor(exponent).long()

    def _basis(self) -> torch.Tensor:
        """What the format learns, `[C, K]`; of one that learns nothing without numbers."""
        return self.exponent.new_zeros(0) if self.basis is None else self.basis

    def _factor(self) -> torch.Tensor:
        """k = gamma / sqrt(var + eps) in float64, or 1."""
        if not self.has_batch_norm:
            return torch.ones_like(self.beta, dtype=torch.float64)
        factor: torch.Tensor = normalization_factor(self.gamma.double(), self.variance.double(), self.epsilon, torch)
        return factor

    def _centre(self) -> torch.Tensor:
        """The running mean of the product without its bias, in float64; 0 without a BatchNormalization."""
        if not self.has_batch_norm:
            return torch.zeros_like(self.beta, dtype=torch.float64)
        return self.mean.double() - self.offset.double()

    def _apply_affine(self, x: torch.Tensor, weight: torch.Tensor, magnitude: torch.Tensor | None) -> torch.Tensor:
        """`k * product + b` in float32, k and b rounded straight through where the layer is quantized."""
        k = self._factor()
        b = self.beta - self._centre() * k
        if magnitude is not None and self.source is not None:
            with torch.no_grad():
                integers = self._integers(magnitude, k)
                unit = torch.ldexp(integers.multiplier, integers.exponent)
                rounded_b = torch.ldexp(integers.bias * unit, self.exponent + self.source.exponent)
            k, b = straight_through(k, unit * integers.sign), straight_through(b, rounded_b)
        if not self.has_batch_norm:
            return self.product(x, weight.to(x.dtype), b.to(x.dtype))
        if self.folds:
            folded = weight * self._along(k.float(), weight, output_axis(self.layer.node))
            return self.product(x, folded.to(x.dtype), b.to(x.dtype))
        y = self.product(x, weight.to(x.dtype))
        return y * self._along(k.to(y.dtype), y) + self._along(b.to(y.dtype), y)

    @_QUIET
    def _integers(self, magnitude: torch.Tensor, k: torch.Tensor) -> IntegerAffine:
        assert self.source is not None
        tensors = (k, self.beta.double(), self._centre(), self.exponent, magnitude * self.source.largest)
        xp, (factor, beta, centre, exponent, weight_sum) = _arrays(*tensors)
        integers = fit(
            factor,
            beta,
            centre,
            weight_exponent=exponent,
            input_exponent=self.source.exponent,
            output=self.target,
            weight_sum=weight_sum,
            xp=xp,
        )
        return IntegerAffine(*(torch.as_tensor(getattr(integers, field.name)) for field in fields(integers)))

    def _with_batch_statistics(self, product: torch.Tensor, magnitude: torch.Tensor | None) -> torch.Tensor:
        """Batch normalization by the batch's own statistics; k errs by what rounding to 8 bits makes it in the file."""
        gamma: torch.Tensor = self.gamma
        if magnitude is not None:
            with torch.no_grad():
                k = self._factor()
                integers = self._integers(magnitude, k)
                rounded = torch.ldexp(integers.multiplier, integers.exponent) * integers.sign
                ratio = torch.where(k == 0, 1.0, rounded / k).float()
            gamma = straight_through(gamma, gamma.detach() * ratio)
        running = self.mean - self.offset
        y = F.batch_norm(product, running, self.variance, gamma, self.beta, True, self.momentum, self.epsilon)
        self.mean = running + self.offset
        return y

    @torch.no_grad()
    def _exact(self, x: torch.Tensor) -> torch.Tensor:
        """float64, every value exact: integers are summed in the narrowest float type that holds every sum."""
        assert self.spec is not None
        assert self.source is not None
        xp, (rows, exponent, basis) = _arrays(to_rows(self.layer.node, self.weight), self.exponent, self._basis())
        codes = torch.as_tensor(self.spec.codes_at(rows, exponent, basis, xp))
        magnitude = codes.abs().sum(1, dtype=torch.float64)
        integers = self._integers(magnitude, self._factor())
        codes = codes * integers.sign[:, None].float()
        largest = float(magnitude.max()) * self.source.largest
        kind = torch.float32 if largest <= FLOAT32_EXACT else torch.float64
        weight = to_weight(self.layer.node, codes, tuple(self.weight.shape)).to(kind)
        accumulator = self.product((x / self.source.scale).to(kind), weight).double()
        unit = torch.ldexp(integers.multiplier, integers.exponent + self.exponent + self.source.exponent)
        return (accumulator + self._along(integers.bias, accumulator)) * self._along(unit, accumulator)

    def _along(self, values: torch.Tensor, like: torch.Tensor, axis: int | None = None) -> torch.Tensor:
        """`[C]` shaped to broadcast along an axis: the output's channels, 1 behind a Conv, the last behind a Gemm."""
        shape = [1] * like.ndim
        shape[product_of(self.layer.node).channel_axis if axis is None else axis] = -1
        return values.reshape(shape)


def _arrays(*tensors: torch.Tensor) -> tuple[Any, tuple[Any, ...]]:
    """The interpreter for per-channel arithmetic, and the tensors as its arrays, without gradient.

    It is numpy on the CPU, where a call on a few numbers costs a third of torch's; the two agree to the bit.
    """
    plain = tuple(tensor.detach() for tensor in tensors)
    if any(tensor.device.type != "cpu" for tensor in plain):
        return torch, plain
    return np, tuple(tensor.numpy() for tensor in plain)
