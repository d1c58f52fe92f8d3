"""What rounds a layer's weights as it trains, and the affine map behind them: to grids that follow every step."""

from __future__ import annotations

from dataclasses import fields
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import nn

from qpipe.arith.multiplier import IntegerAffine, fit
from qpipe.arith.spec import QuantSpec
from qpipe.formats.base import Around, TrainableWeight, WeightFormat
from qpipe.ir.quantized.view import Weighted
from qpipe.ops.weight_layout import output_axis, to_rows, to_weight
from qpipe.train.straight_through import channels_last, straight_through

_QUIET = np.errstate(over="ignore", invalid="ignore")  # it is the loss that says that a run diverged


class Affine(NamedTuple):
    """`k (product - centre) + beta`, float64 `[C]`; k is 1 and centre 0 where there is a bias alone."""

    k: torch.Tensor
    beta: torch.Tensor
    centre: torch.Tensor


class Rounded(NamedTuple):
    """What a step of training computes with: a weight on its grid, and k and b of `k product + b`, float64 `[C]`."""

    weight: torch.Tensor
    k: torch.Tensor
    b: torch.Tensor


class Shipped(NamedTuple):
    """`(sum + bias) * unit`: codes in the weight's layout, float; bias and unit float64 `[C]`; the largest sum."""

    codes: torch.Tensor
    bias: torch.Tensor
    unit: torch.Tensor
    largest: float


class _Grids(Protocol):
    """What has the grids of a quantizer of activations, in the file or as it trains."""

    @property
    def grid(self) -> QuantSpec: ...

    @property
    def rounded_to(self) -> QuantSpec: ...


class WeightQuantizer(nn.Module):
    """One layer's: weights in their number format, multiplier and bias in integers.

    exponent: of the channels, int64 `[C]`, as the last step of training chose them, or the file. raised: how far those
    of the file lie above what the format says, for good. basis: of a format that learns its levels.
    """

    exponent: torch.Tensor
    raised: torch.Tensor | None
    basis: torch.Tensor | None

    def __init__(self, layer: Weighted[TrainableWeight]) -> None:
        super().__init__()
        self.format: WeightFormat = layer.weight.format
        self._node = layer.node
        # As the file has them, until `follow`. Not bare, so that no quantizer is a module of this one.
        self._around: tuple[_Grids, _Grids | None] = (layer.sources[0], layer.quantizer)
        basis = layer.weight.basis_array
        self.register_buffer("exponent", torch.from_numpy(layer.weight.exponents.copy()))
        self.register_buffer("basis", None if basis is None else torch.from_numpy(basis.copy()))
        # The file tells it: it is no part of the state.
        self.register_buffer("raised", None, persistent=False)

    @property
    def source(self) -> QuantSpec:
        """The grid of what the layer reads."""
        return self._around[0].grid

    @property
    def rounded_to(self) -> QuantSpec | None:
        """That of what it gives; None of a last layer."""
        target = self._around[1]
        return None if target is None else target.rounded_to

    def follow(self, *, source: _Grids | None = None, target: _Grids | None = None) -> None:
        """Take the grids before and behind the layer from these, where they may move."""
        self._around = (source or self._around[0], target or self._around[1])

    @torch.no_grad()
    def begin(self, weight: torch.Tensor, affine: Affine) -> None:
        """Let training begin at the file's exponents, with the weight and the affine map as the file has them."""
        rows, exponent, k, beta = _arrays(to_rows(self._node, weight), self.exponent, affine.k, affine.beta)
        raised = self.format.raised(rows, exponent, Around(k, beta, self.source, self.rounded_to))
        self.raised = None if raised is None else torch.as_tensor(raised).long()

    def forward(self, weight: torch.Tensor, affine: Affine) -> Rounded:
        """The weight quantized anew (FAQ, section 3.1.1), with the gradient of its rounding; k and b have none.

        The exponents, and what the format learns, move with it.
        """
        codes, self.exponent = self._quantize(weight, affine)
        with torch.no_grad():
            integers = self._integers(affine, codes.abs().sum(1, dtype=torch.float64))
            unit = torch.ldexp(integers.multiplier, integers.exponent)
            b = torch.ldexp(integers.bias * unit, self.exponent + self.source.exponent)
        on_grid = self._on_grid(weight, codes, self.exponent)
        self._learn(weight)
        return Rounded(on_grid, unit * integers.sign, b)

    def on_grid(self, weight: torch.Tensor, affine: Affine) -> torch.Tensor:
        """The weight as `forward` gives it; nothing moves."""
        return self._on_grid(weight, *self._quantize(weight, affine))

    def unrounded(self, weight: torch.Tensor) -> torch.Tensor:
        """What is rounded, in real units."""
        return self.format.unrounded(weight)

    def refresh(self, weight: torch.Tensor, affine: Affine) -> None:
        """Recompute the exponents from the float weights as they are now: what is evaluated and written uses these."""
        _, self.exponent = self._quantize(weight, affine)

    @torch.no_grad()
    def shipped(self, weight: torch.Tensor, affine: Affine) -> Shipped:
        """The integers at the exponents as they are."""
        rows, exponent, basis = _arrays(to_rows(self._node, weight), self.exponent, self.basis)
        codes = torch.as_tensor(self.format.codes_at(rows, exponent, basis))
        magnitude = codes.abs().sum(1, dtype=torch.float64)
        integers = self._integers(affine, magnitude)
        signed = to_weight(self._node, codes * integers.sign[:, None].float(), tuple(weight.shape))
        unit = torch.ldexp(integers.multiplier, integers.exponent + self.exponent + self.source.exponent)
        return Shipped(signed, integers.bias, unit, float(magnitude.max()) * self.source.largest)

    def _on_grid(self, weight: torch.Tensor, codes: torch.Tensor, exponent: torch.Tensor) -> torch.Tensor:
        """Codes `[C, K]` in real units and in the weight's layout, with the gradient of their rounding."""
        with torch.no_grad():
            rows = torch.ldexp(codes, exponent[:, None])
            values = channels_last(to_weight(self._node, rows, tuple(weight.shape)))
        rounded_from = self.format.rounded_from(weight, weight.detach(), output_axis(self._node))
        return straight_through(rounded_from, values)

    @_QUIET
    def _integers(self, affine: Affine, magnitude: torch.Tensor) -> IntegerAffine[torch.Tensor]:
        """The affine map as it ships; magnitude: the sum of each channel's codes' magnitudes, float64 `[C]`."""
        k, beta, centre, exponent, weight_sum = _arrays(*affine, self.exponent, magnitude * self.source.largest)
        integers = fit(
            k,
            beta,
            centre,
            weight_exponent=exponent,
            input_exponent=self.source.exponent,
            output=self.rounded_to,
            weight_sum=weight_sum,
        )
        return IntegerAffine(*(torch.as_tensor(getattr(integers, field.name)) for field in fields(integers)))

    @torch.no_grad()
    @_QUIET
    def _quantize(self, weight: torch.Tensor, affine: Affine) -> tuple[torch.Tensor, torch.Tensor]:
        rows, k, beta, *own = _arrays(to_rows(self._node, weight), affine.k, affine.beta, self.basis, self.raised)
        around = Around(k, beta, self.source, self.rounded_to)
        codes, exponent = self.format.quantize(rows, around, basis=own[0], raised=own[1])
        return torch.as_tensor(codes), torch.as_tensor(exponent).long()

    @torch.no_grad()
    @_QUIET
    def _learn(self, weight: torch.Tensor) -> None:
        """The basis for the steps to come."""
        if self.basis is None:
            return
        rows, basis = _arrays(to_rows(self._node, weight), self.basis)
        self.basis = torch.as_tensor(self.format.learn(rows, basis))


def _arrays(*tensors: torch.Tensor | None) -> tuple[Any, ...]:
    """What per-channel arithmetic is computed on, without gradient: the tensors, or on the CPU numpy's arrays.

    A call of numpy on a few numbers costs a third of torch's; the two agree to the bit.
    """
    plain = [None if tensor is None else tensor.detach() for tensor in tensors]
    if any(tensor is not None and tensor.device.type != "cpu" for tensor in plain):
        return tuple(plain)
    return tuple(None if tensor is None else tensor.numpy() for tensor in plain)
