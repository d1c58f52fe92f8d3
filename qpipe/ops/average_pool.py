"""AveragePool, GlobalAveragePool and the spatial ReduceMean: the exact rational mean, rounded once.

onnxruntime's fused pooling multiplies by a rounded reciprocal of the count, which errs at exact ties for some counts
(the first are 7 and 13); `qpipe.arith.certificate.reciprocal_is_exact` says for which counts it can be used.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from qpipe.arith.certificate import CertificateRow, pool_row
from qpipe.arith.exact import Exact
from qpipe.arith.namespace import IntArray
from qpipe.errors import LoweringError
from qpipe.nodes import MICROSOFT, Window, constant_input, describe, int_attribute, rank, window
from qpipe.ops.base import Refusal, Role, Unweighted
from qpipe.ops.factors import Factors
from qpipe.ops.forms import StandardForm
from qpipe.ops.windows import (
    as_image,
    dims_refusal,
    image_sizes,
    patches,
    positions,
    require_dims,
    symmetric_pads,
    torch_pads,
    window_refusal,
)
from qpipe.ops.work import NodeWork, Work

if TYPE_CHECKING:
    import torch

    from qpipe.ir.quantized.view import RequantizedLayer
    from qpipe.lowering.integer_builder import IntegerBuilder
    from qpipe.lowering.qoperator_builder import QOperatorBuilder
    from qpipe.ops.base import TorchFunction


class AveragePool(Unweighted):
    """A window's sum divided by the count of each position."""

    op_types = ("AveragePool", "GlobalAveragePool", "ReduceMean")
    role = Role.POOL
    standard_forms = (
        StandardForm("QLinearAveragePool", "AveragePool", slice(0, 1)),
        StandardForm("QLinearGlobalAveragePool", "GlobalAveragePool", slice(0, 1)),
    )
    homogeneous = True

    def takes(self, node: ir.Node) -> bool:
        """Of means over axes that over all of an image."""
        return node.op_type != "ReduceMean" or _is_spatial(node)

    def refusal(self, node: ir.Node) -> Refusal | None:
        """A window without gaps, over one dimension to three; or the mean over all of the image."""
        if node.op_type != "AveragePool":
            dims = rank(node.inputs[0])
            return None if dims is None else dims_refusal(dims - 2)
        refused = window_refusal(node)
        if refused is not None:
            return refused
        dilations = window(node).dilations
        if any(d != 1 for d in dilations):
            return Refusal(f"its dilations are {list(dilations)}: write it as a Conv of one channel a group")
        if _hangs_over_counted(node) and image_sizes(node) is None:
            return Refusal(
                "it counts pads and rounds up (count_include_pad, ceil_mode): export the model with a fixed input size"
            )
        return None

    def factors(self, node: ir.Node, operands: Sequence[IntArray], book: Factors) -> IntArray:
        """One for each channel: a mean over positions is linear."""
        return book.over(operands[0], range(2, operands[0].ndim))

    def fits_skip(self, node: ir.Node) -> bool:
        """To shrink."""
        return node.op_type != "ReduceMean"

    def work(self, node: ir.Node) -> NodeWork | None:
        """A sum and a factor; the gradient's sum is of windows that overlap."""
        if node.op_type == "AveragePool":
            shape = window(node)
            size, overlaps = (
                math.prod(shape.kernel),
                any(k > s for k, s in zip(shape.kernel, shape.strides, strict=True)),
            )
        elif (sizes := image_sizes(node)) is not None:
            size, overlaps = math.prod(sizes), False
        else:
            return None
        return NodeWork(Work(multiply=1, add=size - 1), backward=Work(multiply=1, add=size if overlaps else 0))

    def torch(self, node: ir.Node) -> TorchFunction:
        """`x [N, C, *S] -> [N, C, *S']`, or one pixel."""
        return _windowed(node) if node.op_type == "AveragePool" else _global_mean

    def prove(self, layer: RequantizedLayer, *, check_pairs: bool) -> Iterator[CertificateRow]:
        """The mean of each count is one that onnxruntime rounds rightly; of a ReduceMean, which divides, any is."""
        source, output = layer.sources[0].reach, layer.quantizer.rounded_to
        divides = layer.op_type == "ReduceMean"
        row = pool_row(layer.name, layer.op_type, source, output, counts=counts(layer.node), divides=divides)
        if _hangs_over_counted(layer.node):
            hangs = "hangs over pads that count, where onnxruntime divides by the whole window"
            row = replace(row, problems=(*row.problems, f"{hangs}; calibrate the network again"))
        yield row

    def exact(self, layer: RequantizedLayer, *sources: IntArray) -> Exact:
        """The sum under each position, to be divided by how many values it counts."""
        (x,), node, unit = sources, layer.node, layer.sources[0].grid.exponent
        if node.op_type != "AveragePool":
            spatial = tuple(range(2, x.ndim))
            return Exact(x.sum(axis=spatial, keepdims=True), unit, math.prod(x.shape[2:]))
        shape = window(node)
        pads, along = _axis_counts(node, shape, x.shape[2:])
        sums = patches(x, shape, pads).sum(axis=tuple(range(-len(shape.kernel), 0)))
        return Exact(sums, unit, functools.reduce(np.multiply.outer, along))

    def lower_qoperator(self, layer: RequantizedLayer, b: QOperatorBuilder) -> None:
        """QLinearAveragePool, QLinearGlobalAveragePool; ReduceMean stays a float island, whose division is exact."""
        inputs, output = b.quantized_inputs(layer), b.grid(layer.quantizer.rounded_to)
        node, name, float32 = layer.node, layer.name, ir.DataType.FLOAT
        if layer.op_type == "ReduceMean":
            real = b.emit("DequantizeLinear", inputs, name=f"{name}_dequantize", dtype=float32)
            mean = b.emit("ReduceMean", [real, node.inputs[1]], name=name, attributes=node.attributes, dtype=float32)
            value = b.emit("QuantizeLinear", [mean, *output], name=f"{name}_quantize")
        else:
            attributes, inputs = {**node.attributes, "channels_last": 0}, [*inputs, *output]
            value = b.emit(f"QLinear{node.op_type}", inputs, name=name, attributes=attributes, domain=MICROSOFT)
        b.finish(layer, value)

    def lower_integer(self, layer: RequantizedLayer, b: IntegerBuilder) -> None:
        """Sums of codes, divided by the count: a shift where it is a power of two."""
        node, sizes = layer.node, image_sizes(layer.node)
        if sizes is None:
            raise LoweringError(f"{describe(node)}: the image's size is unknown, expected a fixed one to divide by")
        if node.op_type != "AveragePool":
            b.mean_of_image(layer, math.prod(sizes))
            return
        sizes, shape = [1] * (2 - len(sizes)) + sizes, as_image(window(node))
        pads, along = _axis_counts(node, shape, sizes)
        # [H', W', 1]: so many real pixels are under each position of the window.
        b.mean_of_windows(layer, shape, pads, functools.reduce(np.multiply.outer, along)[..., None])


def counts(node: ir.Node) -> set[int]:
    """Over how many values each position of a pool averages; empty where the image's size is unknown."""
    sizes = image_sizes(node)
    if sizes is None:
        return set()
    if node.op_type != "AveragePool":
        return {math.prod(sizes)}
    along = [set(axis.tolist()) for axis in _axis_counts(node, window(node), sizes)[1]]
    return {math.prod(combination) for combination in itertools.product(*along)} - {0}


def _hangs_over_counted(node: ir.Node) -> bool:
    """Whether windows may hang over pads that count, which onnxruntime's fused kernel divides by the whole window."""
    if node.op_type != "AveragePool" or not int_attribute(node, "ceil_mode", 0):
        return False
    return bool(int_attribute(node, "count_include_pad", 0)) and any(window(node).pads)


def _axis_counts(node: ir.Node, shape: Window, sizes: Sequence[int]) -> tuple[tuple[int, ...], list[IntArray]]:
    """The pads of all windows, and how many pixels of each axis a position counts.

    What `ceil_mode` adds to the padding is never one that counts.
    """
    pads = shape.padded(sizes, ceil_mode=bool(int_attribute(node, "ceil_mode", 0)))
    include, found = bool(int_attribute(node, "count_include_pad", 0)), []
    for i, size in enumerate(sizes):
        first = np.arange(positions(shape, pads, i, size)) * shape.strides[i] - shape.pads[i]
        low, high = (-shape.pads[i], size + shape.pads[len(sizes) + i]) if include else (0, size)
        found.append(np.maximum(np.minimum(first + shape.kernel[i], high) - np.maximum(first, low), 0))
    return pads, found


def _is_spatial(node: ir.Node) -> bool:
    """Whether it is the mean over all spatial axes and keeps them: what replaces a GlobalAveragePool."""
    axes, dims = constant_input(node, 1), rank(node.inputs[0]) or 4
    spatial = list(range(2, dims))
    return axes is not None and sorted(axes.tolist()) == spatial and int_attribute(node, "keepdims", 1) == 1


def _global_mean(x: torch.Tensor) -> torch.Tensor:
    spatial = tuple(range(2, x.ndim))
    return x.sum(spatial, keepdim=True) / float(np.prod(x.shape[2:]))


def _windowed(node: ir.Node) -> TorchFunction:
    from torch.nn import functional as F

    shape = require_dims(node)
    if any(d != 1 for d in shape.dilations):
        raise LoweringError(f"{describe(node)}: dilations are {list(shape.dilations)}, expected 1")
    is_row, shape = len(shape.kernel) == 1, as_image(shape)
    include = bool(int_attribute(node, "count_include_pad", 0))
    ceil_mode = bool(int_attribute(node, "ceil_mode", 0))
    pads, pool = symmetric_pads(shape.pads), F.avg_pool3d if len(shape.kernel) == 3 else F.avg_pool2d

    def run(x: torch.Tensor) -> torch.Tensor:
        return over_image(x.unsqueeze(2)).squeeze(2) if is_row else over_image(x)

    def over_image(x: torch.Tensor) -> torch.Tensor:
        # torch pads by at most half a window, and has no 3-d window that is larger than its image without the pads.
        if pads is not None and all(
            2 * p <= k and (k <= size or pool is not F.avg_pool3d)
            for p, k, size in zip(pads, shape.kernel, x.shape[2:], strict=True)
        ):
            return pool(x, shape.kernel, shape.strides, pads, ceil_mode, include)
        needed = shape.padded(x.shape[2:], ceil_mode=ceil_mode)
        beyond = [a - b for a, b in zip(needed, shape.pads, strict=True)]
        counted = F.pad(x.new_ones(1, 1, *x.shape[2:]), torch_pads(shape.pads), value=1.0 if include else 0.0)
        sums, counts = (
            pool(F.pad(y, torch_pads(tuple(pads))), shape.kernel, shape.strides, divisor_override=1)
            for y, pads in ((x, needed), (counted, beyond))
        )
        return sums / counts

    return run
