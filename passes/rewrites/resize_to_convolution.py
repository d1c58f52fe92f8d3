"""Write a Resize by weights that have no integer form as a depthwise Conv and a shuffle: its weights are constant.

Linear and cubic means of pixels repeat: where p pixels take the place of q, each block of p reads the same neighbours
with the same weights. So a Conv of stride q gives p channels for each, and they go to their places:

    Resize(x [N, C, W])  =  Reshape(Transpose(Reshape(Conv(Pad<edge>(x)) [N, C p, W / q])))        along each axis

The weights get 8 bits in any network, with a scale for each phase: each of the 2 or 4 neighbours along an axis has one
that is off by at most half a step, 1/254 of the largest. Only in front of other weights: behind the last ones a Resize
stays what it is. Source: ONNX operator specification, Resize.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Final

import numpy as np
import onnx_ir as ir

from qpipe.arith.namespace import AnyArray
from qpipe.ir.graph.edges import leading_to_weights
from qpipe.ir.graph.layers import INTERPOLATES
from qpipe.ir.graph.rewrite import Steps, rewrite
from qpipe.nodes import float_attribute, int_attribute, static_shape, string_attribute
from qpipe.ops import op_of
from qpipe.ops.interpolation import NEAR, taps_of
from qpipe.ops.resize import scalings
from qpipe.ops.scaling import TRANSFORMATIONS, Scaling

_MOST_PHASES: Final = 16
_MOST_TAPS: Final = 64
"""Of one Conv, along all of its axes: more phases are more channels, and more taps more products than islands save."""


@dataclass(frozen=True, kw_only=True)
class ResizeToConvolution(ir.passes.InPlacePass):
    """Every linear or cubic Resize of image axes that has no integer form, and whose weights repeat soon."""

    name: ClassVar[str] = "resize-to-convolution"

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Replace every match that leads to weights."""
        feeding = leading_to_weights(model.graph)

        def attempt(graph: ir.Graph, node: ir.Node) -> bool:
            return node.outputs[0] in feeding and _try_replace(graph, node)

        return rewrite(model, {"Resize"}, attempt)


@dataclass(frozen=True)
class _Phases:
    """One axis: weights `[p, taps]` of the neighbours of each block, its stride, and how far the edges reach."""

    weights: AnyArray
    stride: int
    pads: tuple[int, int]


def _try_replace(graph: ir.Graph, node: ir.Node) -> bool:
    shape, mode = static_shape(node.inputs[0]), string_attribute(node, "mode", "nearest")
    if shape is None or node.inputs[0] is None or mode not in ("linear", "cubic") or op_of(node).refusal(node) is None:
        return False
    transformation = string_attribute(node, "coordinate_transformation_mode", "half_pixel")
    if transformation not in TRANSFORMATIONS or not _stretches(node) or len(shape) not in (3, 4, 5):
        return False
    found = scalings(node, [size or 0 for size in shape])
    if not found or min(found) < 2 or None in shape[1:]:
        return False
    if any(along.factor < 1 for along in found.values()) and int_attribute(node, "antialias", 0):
        return False
    cubic = float_attribute(node, "cubic_coeff_a", -0.75) if mode == "cubic" else None
    phases = {axis: each for axis, along in found.items() if (each := _phases(along, transformation, cubic))}
    if len(phases) < len(found):
        return False
    steps = Steps(graph, node, node.inputs[0])
    together = [phases] if _is_small(phases) else [{axis: each} for axis, each in phases.items()]
    if not all(map(_is_small, together)):
        return False
    batch, sizes = ir.SymbolicDim(None) if shape[0] is None else shape[0], [size or 0 for size in shape[1:]]
    for number, axes in enumerate(together):
        sizes = _add(steps, batch, sizes, axes, f"{number}")
    steps.replace()
    return True


def _stretches(node: ir.Node) -> bool:
    """Whether nothing is asked that changes the formula."""
    is_plain = string_attribute(node, "keep_aspect_ratio_policy", "stretch") == "stretch"
    return is_plain and not int_attribute(node, "exclude_outside", 0)


def _is_small(axes: Mapping[int, _Phases]) -> bool:
    phases, taps = (math.prod(each.weights.shape[i] for each in axes.values()) for i in (0, 1))
    return bool(phases <= _MOST_PHASES and taps <= _MOST_TAPS)


def _phases(along: Scaling, transformation: str, cubic: float | None) -> _Phases | None:
    """None where the weights don't repeat within so few pixels, or blocks begin beyond the image's end."""
    places = np.array([float(x) for x in along.coordinates(transformation)])
    for p in range(1, min(_MOST_PHASES, along.new) + 1):
        q = round(p * along.size / along.new)
        if along.new % p or not q or np.abs(places[p:] - places[:-p] - q).max(initial=0) > NEAR:
            continue
        taps = [taps_of(place, cubic) for place in places[:p]]
        low = min(0, *(first for first, _ in taps))
        width = max(first + len(weights) for first, weights in taps) - low
        end = (along.new // p - 1) * q + width + low - along.size
        if end < 0:
            width, end = width - end, 0
        weights = np.zeros((p, width))
        for phase, (first, values) in enumerate(taps):
            weights[phase, first - low : first - low + len(values)] = values
        return _Phases(weights, q, (-low, end))
    return None


def _add(
    steps: Steps, batch: int | ir.SymbolicDim, sizes: Sequence[int], axes: Mapping[int, _Phases], what: str
) -> list[int]:
    """The nodes that resize these axes together; the sizes `[C, *S]` behind them, of those before."""
    channels, dims = sizes[0], len(sizes) - 1
    plain = _Phases(np.ones((1, 1)), 1, (0, 0))
    each = [axes.get(2 + axis, plain) for axis in range(dims)]
    counts, kernel = ([along.weights.shape[i] for along in each] for i in (0, 1))
    strides = [along.stride for along in each]
    pads = [[0, 0, *(along.pads[side] for along in each)] for side in (0, 1)]
    image = [size + sum(along.pads) for size, along in zip(sizes[1:], each, strict=True)]
    if any(map(any, pads)):
        steps.add("Pad", f"{what}_edges", [np.array(pads[0] + pads[1])], [batch, channels, *image], mode="edge")
    filters = np.zeros((*counts, *kernel))
    for phase in itertools.product(*map(range, counts)):
        filters[phase] = _outer([along.weights[i] for along, i in zip(each, phase, strict=True)])
    phases = math.prod(counts)
    weight = np.tile(filters.reshape(1, phases, *kernel), (channels, 1, *(1 for _ in kernel)))
    weight = np.ascontiguousarray(weight.reshape(channels * phases, 1, *kernel), np.float32)
    blocks = [(size - k) // s + 1 for size, k, s in zip(image, kernel, strides, strict=True)]
    window = {"kernel_shape": kernel, "strides": strides, "pads": [0] * 2 * dims, "dilations": [1] * dims}
    made = [batch, channels * phases, *blocks]
    means = steps.add("Conv", f"{what}_means", [weight], made, group=channels, **window)
    means.metadata_props[INTERPOLATES] = f"{channels} channels, {phases} phases"
    # The phases of each axis to the places behind its blocks.
    apart = [channels, *counts, *blocks]
    order = [0, 1, *(axis for i in range(dims) for axis in (2 + dims + i, 2 + i))]
    turned = [apart[axis - 1] for axis in order[1:]]
    result = [channels, *(n * p for n, p in zip(blocks, counts, strict=True))]
    steps.add("Reshape", f"{what}_phases", [np.array([0, *apart])], [batch, *apart])
    steps.add("Transpose", f"{what}_turn", [], [batch, *turned], perm=order)
    steps.add("Reshape", f"{what}_places", [np.array([0, *result])], [batch, *result])
    return result


def _outer(rows: Sequence[AnyArray]) -> AnyArray:
    """The product of a weight along each axis."""
    found = np.ones(())
    for row in rows:
        found = np.multiply.outer(found, row)
    return found
