"""Both ends of a graph that takes uint8 pixels and gives int32 fixed point, instead of floats.

Per channel, preprocessing and the first quantizer are one table of 256 codes. Where an integer product, sum and shift
give every one of its entries, they take its place: onnxruntime computes them six times as fast as it looks up.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
from pydantic import JsonValue

from qpipe.arith.quantize import quantize
from qpipe.arith.spec import QuantSpec
from qpipe.arith.symbolic import INT32, UINT8, Symbol
from qpipe.errors import LoweringError
from qpipe.ir.files.metadata import KEEPS_ORDER, set_json
from qpipe.ir.quantized.qdq import ActivationQuantizer
from qpipe.ir.quantized.view import View
from qpipe.lowering.ends import result_scales
from qpipe.lowering.integer_builder import TO_NHWC, IntegerBuilder, Layout
from qpipe.ops.links import keeps_order

IO: Final = "io"
"""Metadata `qpipe.io`: `layout` of the pixels, and `scales`, real units per step of each int32 output by its name."""

_SHIFT = 16
_UNBOUNDED = 2**40
_INT32_MAX = 2**31 - 1

Table = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Line:
    """`clip((pixel * slope + offset) >> 16)` between the table's ends; slope and offset: int64 `[C]`."""

    slope: npt.NDArray[np.int64]
    offset: npt.NDArray[np.int64]


def code_tables(values: Floats, spec: QuantSpec) -> Table:
    """What the float32 values `[C, 256]` of the pixels become in the first quantizer, uint8 `[C, 256]`."""
    return np.asarray(quantize(values, spec) + spec.zero_point).astype(np.uint8)


def take_pixels(
    graph: ir.Graph, quantizer: ActivationQuantizer, values: Floats, b: IntegerBuilder, *, pixels: Layout, own: Layout
) -> None:
    """Replace the graph's input by uint8 pixels of the layout `pixels`, under its name.

    values: what preprocessing makes of each pixel, float32 `[C, 256]`. own: the layout of the float input.
    """
    old = quantizer.source
    if old.shape is None or len(old.shape) != 4:
        raise LoweringError(f"input '{old.name}' has shape {old.shape}, expected an image of 4 dimensions")
    dims = list(old.shape)
    last = dims if own == "NHWC" else [dims[i] for i in TO_NHWC]
    if last[3] != len(values):
        raise LoweringError(f"input '{old.name}' has {last[3]} channels, preprocessing has {len(values)}")
    shape = last if pixels == "NHWC" else [last[0], last[3], last[1], last[2]]
    new = ir.Value(name=old.name, type=ir.TensorType(ir.DataType.UINT8), shape=ir.Shape(shape))
    graph.inputs[list(graph.inputs).index(old)] = new
    codes = new if pixels == "NHWC" else b.transpose(new, TO_NHWC)
    sizes = [size if isinstance(size, int) else None for size in last[1:]]
    tables = code_tables(quantizer.in_units(values), quantizer.rounded_to)
    if quantizer.table is not None:
        tables = quantizer.table.array()[tables]
    looked_up = look_up(b, Symbol(b, codes, UINT8, sizes), tables, quantizer.grid)
    # A network that wants channels last has them in its own layout.
    b.define(quantizer, looked_up.handle, "NCHW" if own == "NHWC" else "NHWC")


def look_up(b: IntegerBuilder, pixels: Symbol, tables: Table, spec: QuantSpec) -> Symbol:
    """Each pixel's code: uint8 `[N, H, W, C]` by `tables` `[C, 256]`."""
    index = pixels.astype(INT32)
    line = find_line(tables, spec)
    if line is not None:
        return (index * line.slope + line.offset).clip(*_ends(spec)) >> _SHIFT
    index = index + 256 * np.arange(len(tables))
    return Symbol(b, b.node("Gather", [b.shared(tables.reshape(-1)), index.handle]), UINT8, pixels.sizes)


def find_line(tables: Table, spec: QuantSpec) -> Line | None:
    """A line through every entry, proven by computing all of them; None where there is none."""
    lines = [_line_of(table.astype(np.int64), spec) for table in tables]
    slope, offset = np.array([line or (0, 0) for line in lines], np.int64).T
    sums = np.arange(256) * slope[:, None] + offset[:, None]
    fits = np.abs(sums).max() <= _INT32_MAX and np.array_equal(sums.clip(*_ends(spec)) >> _SHIFT, tables)
    return Line(slope, offset) if fits else None


def _ends(spec: QuantSpec) -> tuple[int, int]:
    return spec.stored_min << _SHIFT, (spec.stored_max + 1 << _SHIFT) - 1


def _line_of(table: npt.NDArray[np.int64], spec: QuantSpec) -> tuple[int, int] | None:
    """Slope and offset, the middle of all that fit. A saturated entry bounds the line from one side only."""
    pixel = np.arange(256)
    least = np.where(table > spec.stored_min, table << _SHIFT, -_UNBOUNDED)
    most = np.where(table < spec.stored_max, (table + 1 << _SHIFT) - 1, _UNBOUNDED)
    # Every two pixels bound the slope: what rises between them is at least, and at most, so much.
    apart = np.maximum(pixel[:, None] - pixel, 1)
    later = pixel[:, None] > pixel
    low = np.where(later, -((most - least[:, None]) // apart), -_UNBOUNDED).max()
    high = np.where(later, (most[:, None] - least) // apart, _UNBOUNDED).min()
    slope = int(low + high) // 2
    below, above = (least - pixel * slope).max(), (most - pixel * slope).min()
    return (slope, int(below + above) // 2) if low <= high and below <= above else None


def give_integers(model: ir.Model, view: View, b: IntegerBuilder, layout: Layout) -> list[JsonValue]:
    """Make the int32 of the last layers the outputs and write the metadata; the names of the float nodes cut off."""
    scales: dict[str, JsonValue] = {}
    # Once they are no outputs any more, the view knows them no longer.
    results = view.results
    model.graph.outputs.clear()
    for layer in view.layers:
        if layer.result not in results:
            continue
        value = b.result(layer.result)
        if layer.quantizer is not None:
            value = (Symbol(b, value, UINT8).astype(INT32) + -layer.quantizer.grid.zero_point).handle
        units = result_scales(layer)
        if len(units) > 1:
            raise LoweringError(f"{layer.op_type} '{layer.name}': its channels have different units, expected one")
        value.name, value.shape = layer.result.name, None if layer.result.shape is None else layer.result.shape.copy()
        model.graph.outputs.append(value)
        scales[str(value.name)] = float(units[0])
    set_json(model, IO, {"layout": layout, "scales": scales})
    cut = [node for layer in view.tail for node in layer.nodes]
    if cut and all(map(keeps_order, cut)):
        set_json(model, KEEPS_ORDER, True)
    return [str(node.name) for node in cut]
