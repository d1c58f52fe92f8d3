"""Choose each layer's codes for the error at its output, and take what they shift on average off its bias.

Rounding each weight to the nearest, and cutting off what makes a pair unsafe, is the least error of the weights. What
counts is the error of what they are multiplied by: with H = E[x x^T] of a layer's inputs on the calibration data an
error d of its weights is d H d^T at its output. So codes are chosen one after the other, each for what those before it
have done (see `qpipe.arith.feedback`), pairs within their limit; and of a few ways to place a channel on its grid, from
one that fills it to one on which no pair can be unsafe, that with the least error is taken.

Where samples are few, H holds chance as well. So one half of them chooses codes and the other judges them, with more
and more of what H has beside its diagonal taken off, down to rounding to the nearest; what does best is done with all.

What is left of a shift, `E[w_q x_q] - E[w x]` per channel, of rounded weights and inputs both, goes to the mean of the
BatchNormalization behind, or to the bias; but that of a channel which only passes codes on is taken off by its readers.
Of inputs that are computed of codes, such as sums and products of two, rounding the float network's values says nothing
of the mean: they are rounded more than once, and lie on few numbers. There it is the weights' alone.

The float weights stay what they are as far as they round to these codes, so that training goes on from them.

Source: Frantar et al. 2023 (GPTQ), algorithm 1; Nagel et al. 2019, *Data-Free Quantization Through Weight Equalization
and Bias Correction*, section 4.2, with observed means.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, TypeVar

import numpy as np
import onnx_ir as ir

from qpipe.arith.feedback import OutputError
from qpipe.arith.namespace import AnyArray, Float64Array, FloatArray, IntArray
from qpipe.arith.rescale import single_powers
from qpipe.arith.spec import QuantSpec
from qpipe.calibration.comparison import float_value, values_by_name
from qpipe.calibration.row_moments import RowMoments, measure_rows
from qpipe.calibration.shard import ALONE, Shard
from qpipe.data.inputs import count_of
from qpipe.formats.base import Around, TrainableWeight
from qpipe.ir.graph.affine import read_affine
from qpipe.ir.graph.layers import Layer, group_layers
from qpipe.ir.quantized.final_weights import float_rows
from qpipe.ir.quantized.rescaled import possible_ratio, rescale_batch_norm
from qpipe.ir.quantized.view import QuantizedLayer, Weighted, is_trainable, read_view
from qpipe.ir.quantized.write_weight import write_weight
from qpipe.nodes import input_value, require_constant, set_constant_input
from qpipe.ops import Role
from qpipe.ops.weight_layout import to_rows

SPREADS = tuple(2.0 ** (i / 4) for i in range(4))
"""Of a channel that a BatchNormalization follows: by what its largest weight stays below the largest code. The next
would be 2, which is the same as the first on the next exponent.
"""
SHARES = (0.02, 0.2, 0.5, 0.8, 1.0)
"""Of what is taken off H beside its diagonal, where few samples made it; with all of it weights don't make up."""
TOGETHER = 2**22
"""Numbers of an array in which several choices are made at once."""
NEAREST = 0.49
"""Of a step: how far a float weight lies from its code at most."""
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class FitWeights(ir.passes.InPlacePass):
    """Fit every trainable layer whose format knows how to; others stay.

    floats: the float network whose values the quantizers stand for. inputs: float32 `[N, C, H, W]`. keep: names of
    layers whose weights stay as they are.
    """

    name: ClassVar[str] = "fit-weights"

    keep: tuple[str, ...] = ()
    floats: ir.Model | None = field(default=None, repr=False, metadata={"argument": False})
    inputs: Any = field(default=(), repr=False, metadata={"argument": False})
    shard: Shard = field(default=ALONE, repr=False, metadata={"argument": False})

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Choose and correct; raises DataError on inputs that can't be used."""
        assert self.floats is not None
        values = values_by_name(self.floats.graph)
        layers: dict[ir.Node, Weighted[TrainableWeight]] = {}
        read: dict[ir.Node, tuple[str, QuantSpec]] = {}
        view = read_view(model)
        of_codes = _computed_of_codes(view.layers)
        for layer in view.layers:
            if not is_trainable(layer) or layer.name in self.keep:
                continue
            value = float_value(layer.sources[0], values) or values.get(str(layer.sources[0].source.name))
            if value is not None:
                layers[layer.node] = layer
                read[layer.node] = str(value.name), layer.sources[0].grid
        if not layers or not count_of(self.inputs):
            return ir.passes.PassResult(model, False)
        originals = {layer.name: layer for layer in group_layers(self.floats.graph)}
        measured = measure_rows(self.floats, read, self.inputs)
        for node, moments in measured.items():
            rows, own = _rows(layers[node], originals.get(layers[node].name)), self._merged(moments)
            if layers[node].sources[0].output in of_codes:
                own = replace(own, mean=own.rounded_mean)
            _fit(layers[node], rows, own)
        return ir.passes.PassResult(model, bool(measured))

    def _merged(self, own: RowMoments) -> RowMoments:
        """Processes run the same images, but another machine may add up in another order."""
        return RowMoments(own.counts, *map(self.shard.largest, (own.mean, own.rounded_mean, own.halves)))


@dataclass
class _Choice:
    """Of each channel: the factor on its weights, exponent, codes, and the error at the output."""

    ratio: Float64Array
    exponent: IntArray
    codes: Float64Array
    error: Float64Array

    def take(self, other: _Choice, better: Any) -> None:
        """The other's channels where it is better, `[C]`."""
        for name in ("ratio", "exponent", "error"):
            setattr(self, name, np.where(better, getattr(other, name), getattr(self, name)))
        self.codes = np.where(better[:, None], other.codes, self.codes)


def _computed_of_codes(layers: Sequence[QuantizedLayer]) -> set[ir.Value]:
    """What is rounded behind anything but a layer of weights, or is a table's, and what moves such numbers."""
    found: set[ir.Value] = set()
    for layer in layers:
        has_table = layer.quantizer is not None and layer.quantizer.table is not None
        moves = layer.role is Role.CARRY and not layer.op.rounds(layer.node)
        alike = layer.is_weighted or (moves and all(source.output not in found for source in layer.sources))
        if has_table or not alike:
            found.add(layer.result)
    return found


def _rows(layer: Weighted[TrainableWeight], original: Layer | None) -> FloatArray:
    """The float weights `[C, K]` without what their first quantizer took off unsafe pairs, rescaled as they are now."""
    rows = float_rows(layer)
    if original is None or (original.batch_norm is None) != (layer.batch_norm is None):
        return rows
    before, now = read_affine(original, len(rows)).k, read_affine(layer, len(rows)).k
    ratio = np.divide(before, now, out=np.ones(len(rows)), where=now != 0)
    exact = to_rows(original.node, require_constant(original.node, 1, "weight")) * ratio[:, None]
    return exact.astype(np.float32) if exact.shape == rows.shape else rows


def _fit(layer: Weighted[TrainableWeight], rows: FloatArray, moments: RowMoments) -> None:
    best = _best(layer, rows, moments)
    if best is None:
        return
    steps = np.exp2(best.exponent.astype(np.float64))[:, None]
    scaled = rows * best.ratio[:, None]
    stored = np.clip(scaled, (best.codes - NEAREST) * steps, (best.codes + NEAREST) * steps).astype(np.float32)
    found: AnyArray = layer.weight.format.stored_codes(stored, best.exponent)
    write_weight(layer, np.where(found == best.codes, stored, best.codes * steps).astype(np.float32), best.exponent)
    if not np.all(best.ratio == 1):
        rescale_batch_norm(layer, best.ratio)
    per = len(rows) // len(moments.second)
    shift = np.concatenate(
        [
            (best.codes * steps)[begin : begin + per] @ rounded - scaled[begin : begin + per] @ mean
            for begin, rounded, mean in zip(range(0, len(rows), per), moments.rounded_mean, moments.mean, strict=True)
        ]
    )
    shift[single_powers(rows, read_affine(layer, len(rows)).k)] = 0
    _take_off(layer, shift)


def _best(layer: Weighted[TrainableWeight], rows: FloatArray, moments: RowMoments) -> _Choice | None:
    weight = layer.weight
    affine = read_affine(layer, len(rows))
    source = layer.sources[0].grid
    output = None if layer.quantizer is None else layer.quantizer.rounded_to
    error = OutputError(_shrunk(moments.second, _share(layer, rows, moments)))
    best: _Choice | None = None
    for ways in _in_parts(_ways(layer, rows), rows.size):
        ratio = np.array([ratio for ratio, _ in ways])
        scaled = (rows * ratio[:, :, None]).astype(np.float32)
        exponents = []
        for (own, raised), way in zip(ways, scaled, strict=True):
            free = weight.format.free_exponents(way, Around(affine.k / own, affine.beta, source, output))
            if free is None:
                return None
            exponents.append(free.astype(np.int64) + raised)
        exponent = np.array(exponents)
        codes = weight.format.fitted_codes(scaled, exponent, error)
        errors = _output_error(scaled, codes, exponent, error) / ratio**2
        for choice in map(_Choice, ratio, exponent, codes, errors):
            if best is None:
                best = choice
            elif weight.format.per_channel:
                best.take(choice, choice.error < best.error)
            elif choice.error.sum() < best.error.sum():
                best = choice
    return best


def _share(layer: Weighted[TrainableWeight], rows: FloatArray, moments: RowMoments) -> float:
    """Of SHARES the one with which codes that one half of the samples chose err least on the other half."""
    affine = read_affine(layer, len(rows))
    output = None if layer.quantizer is None else layer.quantizer.rounded_to
    source = layer.sources[0].grid
    exponent = layer.weight.format.free_exponents(rows, Around(affine.k, affine.beta, source, output))
    if exponent is None or np.array_equal(*moments.halves):
        return 1.0
    fitted, other = moments.halves
    judge, found = OutputError(other), []
    for shares in _in_parts(SHARES, max(fitted.size, rows.size)):
        # Each share has an H of its own, as if its rows were more groups.
        error = OutputError(np.concatenate([_shrunk(fitted, share) for share in shares]))
        many = np.tile(rows, (len(shares), 1)), np.tile(exponent, len(shares))
        codes = layer.weight.format.fitted_codes(*many, error).reshape(len(shares), *rows.shape)
        found += [float(each.sum()) for each in _output_error(rows, codes, exponent, judge)]
    return SHARES[int(np.argmin(found))]


def _in_parts(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """As many together as fit, each of this size."""
    count = max(TOGETHER // max(size, 1), 1)
    for begin in range(0, len(items), count):
        yield items[begin : begin + count]


def _shrunk(second: Float64Array, share: float) -> Float64Array:
    """With so much of what lies beside the diagonals `[G, K, K]` taken off."""
    shrunk: Float64Array = second * (1 - share)
    each = np.arange(second.shape[1])
    shrunk[:, each, each] = second[:, each, each]
    return shrunk


def _ways(layer: Weighted[TrainableWeight], rows: FloatArray) -> list[tuple[Float64Array, int]]:
    """A factor for each channel and how far its exponent is raised: all that are tried."""
    ones = np.ones(len(rows))
    if layer.batch_norm is None or layer.quantizer is None:
        return [(ones, 0), (ones, 1)]
    affine = read_affine(layer, len(rows))
    grids = layer.sources[0].grid, layer.quantizer.rounded_to
    ratios = [
        layer.weight.format.filling_ratio(rows, affine.k, layer.weight.exponents, *grids, spread) for spread in SPREADS
    ]
    possible = [ones if ratio is None else possible_ratio(layer, ratio) for ratio in ratios]
    return [(possible[0], 1), *((ratio, 0) for ratio in possible)]


def _output_error(rows: FloatArray, codes: Float64Array, exponent: IntArray, error: OutputError) -> Float64Array:
    """The mean square `[..., C]` that codes `[..., C, K]` of the rows err by at the output."""
    steps = np.ldexp(rows.astype(np.float64), -exponent.astype(np.int32)[..., None])
    found: Float64Array = error.of(np.broadcast_to(steps, codes.shape), codes) * np.exp2(2.0 * exponent)
    return found


def _take_off(layer: Weighted[TrainableWeight], shift: Float64Array) -> None:
    """Of the layer's sums, `[C]`; where there is neither a normalization nor a bias, it stays."""
    if layer.batch_norm is not None:
        mean = require_constant(layer.batch_norm, 3, "mean").astype(np.float64)
        set_constant_input(layer.batch_norm, 3, (mean + shift).astype(np.float32))
    elif input_value(layer.node, 2) is not None:
        bias = require_constant(layer.node, 2, "bias").astype(np.float64).reshape(-1) - shift
        set_constant_input(layer.node, 2, bias.astype(np.float32))
