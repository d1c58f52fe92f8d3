"""Give the network's input a step and a zero point that fit its data, which need be no power of two and no middle.

    QuantizeLinear(x, s, z)    with s = u 2**l, 1 <= u < 2        DequantizeLinear(q, 2**l, z)

The codes are the same, and so is what they stand for, counted in another unit: x / u. The layers that read the input
multiply their weights by u, so that behind them nothing changes; no integer arithmetic sees u. A symmetric grid on a
power of two costs data that are normalized by mean and standard deviation one to two bits: what MFCCs (from -123 to
26) keep of 8 bits is 7.2, and with this all.

It is done where every way from the input ends in weights and where values that are drawn from it err less.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import onnx_ir as ir

from passes.quantizing.calibrate_percentile import RANGE_KEY, take_range, write_range
from qpipe.arith.namespace import FloatArray
from qpipe.arith.quantize import dequantize, quantize
from qpipe.arith.spec import STORAGE_MAX, QuantSpec
from qpipe.calibration.comparison import IN_UNITS
from qpipe.calibration.rounding_error import squared_errors
from qpipe.data.inputs import by_name
from qpipe.ir.graph.curve_units import units_to_nodes
from qpipe.ir.graph.layer_options import NO_OPTIONS, LayerTable
from qpipe.ir.graph.scale_groups import ScaleGroup, input_groups
from qpipe.ir.quantized.plan import QuantizationPlan, plan_quantization
from qpipe.nodes import initializer, name_value

UNIT_KEY = "qpipe.unit"
"""On an input, until it has a quantizer: `[u, l, z]`."""
GAIN = 0.7
"""Of the squared error that the standard grid leaves: what it must fall below."""
OFTEN = 1e-4
"""The share of values at an end from which on data are bounded there, as pixels are."""
ROOM = 1 / 16
"""Beyond an end that is not."""
VALUES = 2**16
"""That are looked at of each batch."""


@dataclass(frozen=True, kw_only=True)
class FitInput(ir.passes.InPlacePass):
    """Look at `inputs` (batches of float32 `[N, C, H, W]`), and leave unit, exponent and zero point on the input."""

    name: ClassVar[str] = "fit-input"

    activation_bits: int = 8
    layers: LayerTable = NO_OPTIONS
    inputs: Any = field(default=(), repr=False, metadata={"argument": False})

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Choose, and multiply the weights that read the input; ModelError where it has no range yet."""
        plan = plan_quantization(model.graph, activation_bits=self.activation_bits, layers=self.layers)
        groups = {v: group for group in input_groups(plan.layers) if (v := _only_input(group, plan)) is not None}
        drawn = {value: _Drawn() for value in groups}
        names = [str(value.name) for value in model.graph.inputs]
        for batch in self.inputs if groups else ():
            arrays = by_name(batch, names, "the network")
            for value, own in drawn.items():
                own.add(arrays[str(value.name)])
        modified = False
        for value, group in groups.items():
            found, own = take_range(value), drawn[value]
            write_range(value, found)
            top = found.log2_ymax()
            if top is None or own.ends[0] == own.ends[1]:
                continue
            unit, grid = _fitted(own)
            x = np.concatenate(own.values)
            standard = squared_errors(x, [plan.quantizers[value].grid(top, is_negative=found.is_negative)])[0]
            if _error(x, unit, grid) < GAIN * standard:
                value.metadata_props[UNIT_KEY] = json.dumps([unit, grid.exponent, grid.zero_point])
                group.divide(unit)
                modified = True
        return ir.passes.PassResult(model, modified)


class _Drawn:
    """Of all batches: both ends, how many values are there, and some values."""

    def __init__(self) -> None:
        self.ends = np.zeros(2)
        self.there = np.zeros(2, np.int64)
        self.count = 0
        self.values: list[FloatArray] = []

    def add(self, batch: FloatArray) -> None:
        flat = batch.reshape(-1)
        self.count += flat.size
        for index, end in enumerate((float(flat.min()), float(flat.max()))):
            if abs(end) > abs(self.ends[index]) and (end < 0) == (index == 0):
                self.ends[index], self.there[index] = end, 0
            near = np.abs(flat - self.ends[index]) <= np.ptp(self.ends) / STORAGE_MAX / 2
            self.there[index] += int(near.sum())
        step = max(flat.size // VALUES, 1)
        self.values.append(flat[::step])

    @property
    def range(self) -> tuple[float, float]:
        """With some room at an end where values are rare: other data go beyond it."""
        is_bound = self.there >= OFTEN * self.count
        low, high = np.where(is_bound, self.ends, self.ends * (1 + ROOM))
        return float(low), float(high)


def take_unit(value: ir.Value) -> tuple[float, QuantSpec] | None:
    """Take unit and grid from an input that has them."""
    text = value.metadata_props.pop(UNIT_KEY, None)
    if text is None:
        return None
    unit, exponent, zero_point = json.loads(text)
    return unit, QuantSpec.around(exponent, zero_point)


def write_units(model: ir.Model) -> None:
    """Let a float network whose input has a unit divide by it, so that it is the function that it was.

    What its readers read then are the quantizer's real numbers (see `IN_UNITS`).
    """
    for value in model.graph.inputs:
        unit = take_unit(value)
        if unit is None:
            continue
        factor = initializer(model.graph, f"{value.name}_factor", np.float32(1 / unit[0]))
        multiply = ir.node("Mul", [value, factor], name=f"{value.name}_in_units")
        value.replace_all_uses_with(multiply.outputs[0])
        multiply.replace_input_with(0, value)
        assert value.type is not None
        name_value(multiply.outputs[0], f"{value.name}{IN_UNITS}", value.type, value.shape)
        model.graph.insert_before(model.graph[0], multiply)
    units_to_nodes(model)


def _only_input(group: ScaleGroup, plan: QuantizationPlan) -> ir.Value | None:
    """The input that layers with weights alone read, through what keeps its integers; None of other groups."""
    alone = len(group.inputs) == 1 and not group.writers
    if not alone or any(value in plan.quantizers for value in group.values):
        return None
    value = group.inputs[0]
    is_float = value.dtype in {None, ir.DataType.FLOAT}
    return value if is_float and value in plan.quantizers and RANGE_KEY in value.metadata_props else None


def _fitted(drawn: _Drawn) -> tuple[float, QuantSpec]:
    """Unit and grid for all values; an even zero point, so that ties go to even with it as well."""
    low, high = drawn.range
    step = (high - low) / (STORAGE_MAX if low == 0 else STORAGE_MAX - 2)
    zero_point = 2 * math.ceil(-low / step / 2)
    exponent = math.frexp(step)[1] - 1
    unit = float(np.float32(math.ldexp(step, -exponent)))
    return unit, QuantSpec.around(exponent, zero_point)


def _error(x: FloatArray, unit: float, grid: QuantSpec) -> float:
    scaled = x / np.float32(unit)
    return float(np.square(scaled - dequantize(quantize(scaled, grid), grid), dtype=np.float64).sum()) * unit**2
