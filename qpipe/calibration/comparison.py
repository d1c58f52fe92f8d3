"""A float network beside what calibration made of it, tensor by tensor, on a few images.

For each tensor x with a quantizer, and each output, the signal-to-noise ratio `10 log10(sum x**2 / sum (x - q)**2)` in
decibels, q being what the finalized network gives in its place, with all that was rounded before it; and the channels
that keep fewer than 2 levels, though they vary in the float network. Sums are float64 and memory holds a piece of the
images, as for every other observer.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from qpipe.arith.namespace import AnyArray, Float64Array
from qpipe.arith.spec import QuantSpec
from qpipe.calibration.percentile import FloatArray
from qpipe.calibration.pieces import Pieces
from qpipe.data.inputs import Inputs, count_of
from qpipe.errors import ModelError
from qpipe.ir.quantized.compared import MOST_DECIBELS, NetworkComparison, TensorComparison
from qpipe.ir.quantized.qdq import ActivationQuantizer
from qpipe.ir.quantized.view import QuantizedLayer, View, read_view
from qpipe.nodes import describe, static_shape
from qpipe.ops import Role

IN_UNITS = "/units"
"""Behind the name of a network's input: what its readers read, where they count in another unit."""
_LEAST, _MOST = 1e-12, 1e12  # of the largest number whose squares float32 is to sum: they reach from 1e-38 to 1e38
_DEQUANTIZED = "_dequantized"  # behind the name of a float value: what its quantizer gives


@dataclass(frozen=True)
class _Compared:
    """A value of the float network, and what stands for it in the finalized one: codes on a grid, or floats."""

    value: ir.Value
    name: str
    layer: str
    grid: QuantSpec | None = None
    bits: int | None = None


class _Sums:
    """Of one tensor, over the pieces. by_channel: whether its second axis is one of channels, else it counts as one."""

    def __init__(self, *, by_channel: bool) -> None:
        self._by_channel = by_channel
        self.signal = self.noise = 0.0
        self.codes = self.floats = np.zeros((2, 0))

    def add(self, x: FloatArray, other: AnyArray, grid: QuantSpec | None) -> None:
        """x, `[N, C, ...]` in real units; other: codes on the grid, or real units as well."""
        if not x.size:
            return
        if grid is not None:
            self.codes = _wider(self.codes, channel_range(other, by_channel=self._by_channel))
            self.floats = _wider(self.floats, channel_range(x, by_channel=self._by_channel))
            other = (other.astype(np.float32) - grid.zero_point) * np.float32(grid.scale)
        self.signal += _energy(x)
        self.noise += _energy(x - other if x.dtype == other.dtype == np.float32 else np.subtract(x, other, dtype=float))

    @property
    def decibels(self) -> float:
        """Of signal to noise; of two zeros all, of a zero that is none the negative of it."""
        if not self.noise:
            return MOST_DECIBELS
        ratio = self.signal / self.noise
        return float(np.clip(10 * math.log10(ratio), -MOST_DECIBELS, MOST_DECIBELS)) if ratio else -MOST_DECIBELS

    @property
    def lost(self) -> tuple[int, ...]:
        """Channels that vary in the float network and not in the other."""
        gone = (self.codes[0] == self.codes[1]) & (self.floats[0] < self.floats[1])
        return tuple(int(channel) for channel in np.flatnonzero(gone))

    @property
    def largest(self) -> tuple[int, float]:
        """The channel of the largest magnitude, and its ratio to the median of those that have any."""
        magnitudes = np.abs(self.floats).max(axis=0, initial=0.0)
        if not magnitudes.any():
            return 0, 1.0
        channel = int(magnitudes.argmax())
        return channel, float(magnitudes[channel] / np.median(magnitudes[magnitudes > 0]))


def compare_networks(floats: ir.Model, final: ir.Model, images: Inputs) -> NetworkComparison:
    """Run both on some samples.

    floats: the normalized float network. final: the finalized QDQ network that was made from it.

    Raises:
        ModelError: names a tensor of either network that is NaN or infinite on the images.
    """
    compared = _compared(floats, read_view(final))
    # Where the batch stands second, as in sequences of an attention, how many there are differs by piece.
    shapes = {item.name: static_shape(item.value) for item in compared}
    sums = {name: _Sums(by_channel=shape is None or None not in shape[1:2]) for name, shape in shapes.items()}
    choices: list[tuple[int, int]] = []
    unlike: set[str] = set()
    output = str(final.graph.outputs[0].name)
    here = Pieces(floats, [str(item.value.name) for item in compared])
    there = Pieces(final, [item.name for item in compared])
    for (ours, _), (theirs, _) in zip(here.run(images), there.run(images), strict=True):
        for item in compared:
            x, other = ours[str(item.value.name)], theirs[item.name]
            _check_finite(item, x, other)
            if x.shape != other.shape:
                # How many there are hangs on the data, as of the boxes that a detector chooses.
                unlike.add(item.name)
                continue
            sums[item.name].add(x, other, item.grid)
            if item.name == output:
                choices += _choices(x, other)
    return NetworkComparison(
        count_of(images),
        tuple(_tensor(item, sums[item.name]) for item in compared if item.name not in unlike),
        float(np.mean([ours == theirs for ours, theirs in choices])) if choices else None,
    )


def _compared(floats: ir.Model, view: View) -> list[_Compared]:
    """What has a quantizer, what a last layer gives, and the outputs; carriers have their input's integers."""
    values = values_by_name(floats.graph)
    found: dict[str, _Compared] = {}
    for quantizer in view.inputs:
        value = values.get(str(quantizer.source.name))
        if value is not None:
            name = str(quantizer.codes.name)
            found[name] = _Compared(value, name, "the input", quantizer.grid, quantizer.grid.bits)
    for layer in view.layers:
        if (item := _of_layer(layer, values)) is not None:
            found[item.name] = item
    for ours, theirs in zip(floats.graph.outputs, view.graph.outputs, strict=True):
        if (node := ours.producer()) is not None and theirs.producer() is not None:
            found.setdefault(str(theirs.name), _Compared(ours, str(theirs.name), describe(node)))
    return list(found.values())


def _of_layer(layer: QuantizedLayer, values: Mapping[str, ir.Value]) -> _Compared | None:
    """None of what only carries integers, and of what the float network does not have."""
    if layer.role is Role.CARRY and layer.function is None and not layer.op.rounds(layer.node):
        return None
    if layer.quantizer is None:
        value = values.get(str(layer.result.name))
        return None if value is None else _Compared(value, str(layer.result.name), describe(layer.node))
    value = float_value(layer.quantizer, values)
    if value is None:
        return None
    node = value.producer()
    of = layer.node if layer.role is not Role.NONE or node is None else node
    return _Compared(
        value, str(layer.quantizer.codes.name), describe(of), layer.quantizer.grid, layer.quantizer.grid.bits
    )


def float_name(quantizer: ActivationQuantizer) -> str:
    """The name that it has there."""
    return str(quantizer.output.name).removesuffix(_DEQUANTIZED)


def float_value(quantizer: ActivationQuantizer, values: Mapping[str, ir.Value]) -> ir.Value | None:
    """What it stands for in the float network, of whose values by name; None where that has none such."""
    name = float_name(quantizer)
    # One reader's own quantizer has a suffix behind a slash.
    return values.get(name) or values.get(name.rpartition("/")[0])


def values_by_name(graph: ir.Graph) -> dict[str, ir.Value]:
    """Its inputs and what its nodes give; under an input's name its value in the unit that its readers count in."""
    found = {str(v.name): v for v in (*graph.inputs, *(value for node in graph for value in node.outputs))}
    return found | {name.removesuffix(IN_UNITS): v for name, v in found.items() if name.endswith(IN_UNITS)}


def _tensor(item: _Compared, sums: _Sums) -> TensorComparison:
    return TensorComparison(
        str(item.value.name),
        item.layer,
        item.bits,
        round(sums.decibels, 1),
        sums.codes.shape[1],
        sums.lost,
        sums.largest,
    )


def _check_finite(item: _Compared, x: AnyArray, other: AnyArray) -> None:
    for array, which in ((x, "float"), (other, "quantized")):
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise ModelError(
                f"{item.layer}: tensor '{item.value.name}' of the {which} network has NaN or infinite values on the "
                "calibration data, expected finite ones"
            )


def _choices(x: AnyArray, other: AnyArray) -> list[tuple[int, int]]:
    """Both first choices, image by image; none where the output holds no choice."""
    if x.ndim == 2 and x.shape[1] > 1:
        x, other = x.argmax(axis=1), other.argmax(axis=1)
    if x.ndim != 1 or x.dtype.kind not in "iu":
        return []
    return list(zip(x.tolist(), other.tolist(), strict=True))


def _energy(x: AnyArray) -> float:
    """The sum of squares: of each row in float32, where squares stay well within it, of all in float64."""
    if x.dtype != np.float32 or x.ndim < 2 or not _LEAST < np.abs(x).max() < _MOST:
        return float(np.square(x, dtype=np.float64).sum())
    rows = x.reshape(-1, x.shape[-1])
    return float(np.einsum("ij,ij->i", rows, rows).sum(dtype=np.float64))


def channel_range(x: AnyArray, *, by_channel: bool = True) -> Float64Array:
    """The least and the largest value of each channel, `[2, C]`; of all there is, `[2, 1]`, where there are none."""
    x = np.atleast_1d(x)
    rows = x.reshape(len(x), x.shape[1] if x.ndim > 1 and by_channel else 1, -1)
    return np.stack([rows.min(axis=2).min(axis=0), rows.max(axis=2).max(axis=0)]).astype(np.float64)


def _wider(one: Float64Array, other: Float64Array) -> Float64Array:
    if not one.size:
        return other
    return np.stack([np.minimum(one[0], other[0]), np.maximum(one[1], other[1])])
