"""Write a transposed convolution as a convolution that gives s x s pixels at a time, and a shuffle to their places.

ConvTranspose, along one axis of stride s, dilation d, pads p: `y[i s + k d - p] += x[i] w[k]`. Of the pixels
`y[s a + r]`, each phase r reads a few neighbours of x[a], by the taps k of which `k d - p - r` is a multiple of s. It
is a convolution. All phases are channels of one, on a window that holds the neighbours of all; taps that a phase does
not have are zeros in its weight. Then

    ConvTranspose -> BatchNormalization -> Relu  =  Conv -> BatchNormalization -> Relu -> DepthToSpace (-> Slice)

The multiply-accumulates are the same where s divides the kernel, and far fewer than on an image with zeros between its
pixels. Each phase gets weight scales, and a BatchNormalization, of its own. Source: ONNX operator specification,
ConvTranspose; Shi et al. 2016, "Is the deconvolution layer the same as a convolutional layer?".
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Final

import numpy as np
import onnx_ir as ir

from qpipe.ir.graph.rewrite import only_reader
from qpipe.nodes import (
    AnyArray,
    constant_array,
    constant_input,
    initializer,
    input_value,
    int_attribute,
    ints_attribute,
    static_shape,
    string_attribute,
)
from qpipe.ops import activation_of

Sizes = list[int | None]
_STATISTICS: Final = 5  # inputs of a BatchNormalization


@dataclass(frozen=True, kw_only=True)
class SubPixelConvolution(ir.passes.InPlacePass):
    """Every ConvTranspose of constant weights whose pads are known, of strides that leave no size open."""

    name: ClassVar[str] = "sub-pixel-convolution"

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Replace every match, with the BatchNormalization and the activation that alone read it."""
        found = [node for node in model.graph if node.op_type == "ConvTranspose" and node.domain == ""]
        changed = [_try_replace(model.graph, node) for node in found]
        return ir.passes.PassResult(model, any(changed))


@dataclass(frozen=True)
class Axis:
    """One axis of the transposed convolution, as a convolution: what each of its taps becomes.

    taps: for each tap of the kernel its phase and its place in the new window. pads: of the new convolution. crop: how
    many of the shuffled pixels are too many at the begin and at the end.
    """

    stride: int
    taps: tuple[tuple[int, int], ...]
    window: int
    dilation: int
    pads: tuple[int, int]
    crop: tuple[int, int]


def plan_axis(kernel: int, stride: int, dilation: int, pads: tuple[int, int], extra: int) -> Axis:
    """The axis; extra: `output_padding`. Of all first pixels that a block can begin with, the smallest window."""
    if stride == 1:
        # y[i] = sum of x[i + p - k d] w[k]: the flipped kernel on other pads.
        extent = (kernel - 1) * dilation + 1
        begin, end = extent - 1 - pads[0], extent - 1 - pads[1] + extra
        places = tuple((0, kernel - 1 - k) for k in range(kernel))
        around, crop = (max(begin, 0), max(end, 0)), (max(-begin, 0), max(-end, 0))
        return Axis(1, places, kernel, dilation, around, crop)
    return min(
        (_at_offset(kernel, stride, dilation, pads, extra, offset) for offset in range(stride)),
        key=lambda axis: (axis.window, sum(axis.crop)),
    )


def _at_offset(kernel: int, stride: int, dilation: int, pads: tuple[int, int], extra: int, offset: int) -> Axis:
    """Where `offset` pixels of the first block are cropped: `s a + r = i s + k d - p + offset`."""
    shifts = [divmod(k * dilation - pads[0] + offset, stride) for k in range(kernel)]
    # The tap gives phase r of block a = i + shift: it reads x[a - shift].
    low, high = min(0, *(-shift for shift, _ in shifts)), max(-shift for shift, _ in shifts)
    window = high - low + 1
    # So many blocks beyond those of the image, and pads that give them.
    size = extra + (kernel - 1) * dilation + 1 - sum(pads) - stride  # of y, beyond s n
    blocks = -(-(size + offset) // stride)
    end = blocks + low + window - 1
    more = max(-end, 0)  # blocks that can't be left out
    crop = (blocks + more) * stride - offset - size
    taps = tuple((phase, -shift - low) for shift, phase in shifts)
    return Axis(stride, taps, window, 1, (-low, max(end, 0)), (offset, crop))


def _try_replace(graph: ir.Graph, node: ir.Node) -> bool:
    weight, shape = constant_input(node, 1), static_shape(node.inputs[0])
    bias = input_value(node, 2)
    if (
        weight is None
        or shape is None
        or len(shape) != weight.ndim
        or (bias is not None and constant_array(bias) is None)
    ):
        return False
    axes, groups = _axes(node, weight.shape[2:], shape[2:]), int_attribute(node, "group", 1)
    strides = [] if axes is None else [axis.stride for axis in axes]
    shuffles = any(stride > 1 for stride in strides)
    is_square = len(strides) == 2 and strides[0] == strides[1]
    if axes is None or (shuffles and not is_square and sum(size is None for size in shape[2:]) > 1):
        return False
    node.name = node.name or node.outputs[0].name
    # DepthToSpace's order where one group has all channels, else the phases of a channel stay with it.
    by_phase = groups == 1
    old = [node, *_behind(node)]
    new = [_convolution(graph, node, weight, axes, groups, by_phase=by_phase)]
    sizes: Sizes = [
        None if size is None else size + sum(axis.pads) - (axis.window - 1) * axis.dilation
        for size, axis in zip(shape[2:], axes, strict=True)
    ]
    channels = weight.shape[1] * groups
    _name(new[0].outputs[0], node.outputs[0], [shape[0], channels * math.prod(strides), *sizes])
    for behind in old[1:]:
        new.append(_moved(graph, behind, new[-1].outputs[0], math.prod(strides), by_phase=by_phase))
    if shuffles:
        new.extend(_shuffle(graph, node, new[-1].outputs[0], strides, channels, by_phase=by_phase))
    new.extend(_crop(graph, node, new[-1].outputs[0], axes))
    ir.convenience.replace_nodes_and_values(graph, node, old, new, old[-1].outputs[:1], new[-1].outputs[:1])
    return True


def _axes(node: ir.Node, kernel: Sequence[int], sizes: Sequence[int | None]) -> list[Axis] | None:
    """How each axis is written; None where its pads are not known, or crop more than there is."""
    dims = len(kernel)
    strides, dilations = (ints_attribute(node, name, (1,) * dims) for name in ("strides", "dilations"))
    extra, pads = ints_attribute(node, "output_padding", (0,) * dims), ints_attribute(node, "pads", (0,) * 2 * dims)
    auto_pad, wanted = string_attribute(node, "auto_pad", "NOTSET"), ints_attribute(node, "output_shape", ())
    found = []
    for i in range(dims):
        more_rows = 0
        size, extent = sizes[i], (kernel[i] - 1) * dilations[i] + 1
        around = (pads[i], pads[dims + i]) if auto_pad == "NOTSET" else (0, 0)
        if wanted or auto_pad in ("SAME_UPPER", "SAME_LOWER"):
            if wanted and size is None:
                return None
            target = wanted[-dims:][i] - strides[i] * ((size or 0) - 1) if wanted else strides[i]
            total = extra[i] + extent - target
            if total < 0 and not wanted:
                # onnxruntime's result is smaller than ONNX says.
                return None
            # A wanted size beyond what the taps reach: the rest has the bias alone, as with output_padding.
            more_rows, total = max(-total, 0), max(total, 0)
            less, more = total // 2, total - total // 2
            around = (less, more) if auto_pad == "SAME_UPPER" else (more, less)
        found.append(plan_axis(kernel[i], strides[i], dilations[i], around, extra[i] + more_rows))
    return found


def _convolution(
    graph: ir.Graph, node: ir.Node, weight: AnyArray, axes: Sequence[Axis], groups: int, *, by_phase: bool
) -> ir.Node:
    """The convolution of all phases."""
    inputs, outputs, strides = weight.shape[0], weight.shape[1], [axis.stride for axis in axes]
    grouped = weight.reshape(groups, inputs // groups, outputs, *weight.shape[2:])
    # [group, output, phases, input, window]
    phases = np.zeros((groups, outputs, *strides, inputs // groups, *(axis.window for axis in axes)), weight.dtype)
    for taps in itertools.product(*(range(len(axis.taps)) for axis in axes)):
        places = [axis.taps[tap] for axis, tap in zip(axes, taps, strict=True)]
        at: tuple[int | slice, ...] = (*(phase for phase, _ in places), slice(None), *(place for _, place in places))
        phases[(slice(None), slice(None), *at)] = grouped[(slice(None),) * 3 + taps].swapaxes(1, 2)
    rows = phases.reshape(groups * outputs, math.prod(strides), *phases.shape[2 + len(axes) :])
    rows = (rows.swapaxes(0, 1) if by_phase else rows).reshape(-1, *rows.shape[2:])
    names = [initializer(graph, f"{node.name}_phases", np.ascontiguousarray(rows))]
    bias = constant_input(node, 2)
    if bias is not None:
        names.append(initializer(graph, f"{node.name}_bias", _repeated(bias, math.prod(strides), by_phase=by_phase)))
    pads = [axis.pads[i] for i in (0, 1) for axis in axes]
    window, dilations = [axis.window for axis in axes], [axis.dilation for axis in axes]
    attributes = {"kernel_shape": window, "pads": pads, "dilations": dilations}
    return ir.node("Conv", [node.inputs[0], *names], {**attributes, "group": groups}, name=node.name)


def _behind(node: ir.Node) -> list[ir.Node]:
    """The BatchNormalization and the activation that alone read it, as far as these are constant."""
    found: list[ir.Node] = []
    reader = only_reader(node.outputs[0])
    if (
        reader is not None
        and reader.op_type == "BatchNormalization"
        and len(reader.outputs) == 1
        and all(constant_input(reader, i) is not None for i in range(1, _STATISTICS))
    ):
        found.append(reader)
        reader = only_reader(reader.outputs[0])
    if reader is not None and activation_of(reader) is not None:
        found.append(reader)
    return found


def _moved(graph: ir.Graph, node: ir.Node, value: ir.Value, phases: int, *, by_phase: bool) -> ir.Node:
    """The same on all phases."""
    inputs = [value, *node.inputs[1:]]
    if node.op_type == "BatchNormalization":
        arrays = [constant_input(node, i) for i in range(1, _STATISTICS)]
        names = [f"{node.name}_{part}" for part in ("scale", "bias", "mean", "variance")]
        inputs[1:] = [
            initializer(graph, name, _repeated(array, phases, by_phase=by_phase))
            for name, array in zip(names, arrays, strict=True)
            if array is not None
        ]
    moved = ir.node(node.op_type, inputs, node.attributes.copy(), domain=node.domain, name=node.name)
    _name(moved.outputs[0], node.outputs[0], static_shape(value) or ())
    return moved


def _repeated(array: AnyArray, phases: int, *, by_phase: bool) -> AnyArray:
    """One number a channel, for all of its phases."""
    return np.tile(array, phases) if by_phase else np.repeat(array, phases)


def _shuffle(
    graph: ir.Graph, node: ir.Node, value: ir.Value, strides: Sequence[int], channels: int, *, by_phase: bool
) -> list[ir.Node]:
    """The phases `[N, C * phases, *S]` to their places `[N, C, *(S * strides)]`."""
    known = static_shape(value) or ()
    sizes, dims = list(known[2:]), len(strides)
    result = [known[0], channels, *(None if n is None else n * s for n, s in zip(sizes, strides, strict=True))]
    if dims == 2 and strides[0] == strides[1]:
        attributes = {"blocksize": strides[0], "mode": "DCR" if by_phase else "CRD"}
        shuffled = [ir.node("DepthToSpace", [value], attributes, name=f"{node.name}_shuffle")]
    else:
        split = [*strides, channels] if by_phase else [channels, *strides]
        first, channel = (1, 1 + dims) if by_phase else (2, 1)
        order = [0, channel, *(axis for i in range(dims) for axis in (2 + dims + i, first + i))]
        steps = (
            [0, *split, *(-1 if n is None else n for n in sizes)],
            [0, *(-1 if n is None else n for n in result[1:])],
        )
        shapes = [initializer(graph, f"{node.name}_shape", np.array(step, np.int64)) for step in steps]
        apart = ir.node("Reshape", [value, shapes[0]], name=f"{node.name}_phases")
        turned = ir.node("Transpose", [apart.outputs[0]], {"perm": order}, name=f"{node.name}_turn")
        shuffled = [apart, turned, ir.node("Reshape", [turned.outputs[0], shapes[1]], name=f"{node.name}_shuffle")]
        parts = [known[0], *split, *sizes]
        _name(apart.outputs[0], node.outputs[0], parts)
        _name(turned.outputs[0], node.outputs[0], [parts[axis] for axis in order])
    _name(shuffled[-1].outputs[0], node.outputs[0], result)
    return shuffled


def _crop(graph: ir.Graph, node: ir.Node, value: ir.Value, axes: Sequence[Axis]) -> list[ir.Node]:
    """What the blocks have too many, away."""
    cut = {2 + i: axis.crop for i, axis in enumerate(axes) if any(axis.crop)}
    if not cut:
        return []
    bounds = {
        "starts": [begin for begin, _ in cut.values()],
        "ends": [-end if end else np.iinfo(np.int64).max for _, end in cut.values()],
        "axes": list(cut),
    }
    arguments = [initializer(graph, f"{node.name}_{name}", np.array(v, np.int64)) for name, v in bounds.items()]
    crop = ir.node("Slice", [value, *arguments], name=f"{node.name}_crop")
    return [crop]


def _name(value: ir.Value, like: ir.Value, shape: Sequence[int | None]) -> None:
    """Its type, and what is known of its shape."""
    value.type = like.type
    value.shape = ir.Shape(list(shape))
