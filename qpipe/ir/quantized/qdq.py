"""Write and read quantizers of a QDQ graph: QuantizeLinear, a Clip where the range is narrower, DequantizeLinear.

They are an activation's, which is uint8, or uint16 of a residual stream that normalizations read. Its codes may pass a
table (see `qpipe.arith.table`): GatherElements along one row of them, as int32, and a Clip where what it gives has a
narrower range; where the file leaves sizes open, Gather. Weights' are in `write_weight` and `view_weights`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Set
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from qpipe.arith.namespace import FloatArray
from qpipe.arith.spec import STORAGE_MAX, WIDE_MAX, QuantSpec
from qpipe.arith.table import CodeTable, GridOrTable
from qpipe.errors import ModelError
from qpipe.ir.quantized.notes import read_bound, read_curve, write_bound
from qpipe.ir.quantized.tables import is_look_up, look_up_codes, look_up_of, read_table
from qpipe.nodes import (
    STANDARD_DOMAINS,
    constant_array,
    constant_input,
    describe,
    exponent_of,
    initializer,
    input_value,
    name_value,
    require_constant,
)
from qpipe.ops import ActivationFunction, Rectifier, activation_of
from qpipe.ops.quantizer_parts import dequantizes

_PARTS = frozenset({"QuantizeLinear", "Clip", "Cast", "Gather", "GatherElements", "Reshape"})
_FORM = re.compile("QuantizeLinear( Clip)?(( Cast Gather| Reshape Cast GatherElements Reshape)( Clip)?)?")
_UINT8 = ir.TensorType(ir.DataType.UINT8)
_STORED = {np.dtype(np.uint8): STORAGE_MAX, np.dtype(np.uint16): WIDE_MAX}


@dataclass(frozen=True)
class ActivationQuantizer:
    """`source` (float) becomes `codes` (all done) on `grid`; `output` is what float consumers read.

    table: what the codes that `source` is rounded to pass through, where there is one; its grid is `grid`.
    """

    source: ir.Value
    codes: ir.Value
    output: ir.Value
    grid: QuantSpec
    table: CodeTable | None = None
    function: ActivationFunction | None = None
    """The activation that range or table took the place of; None where there was none."""
    unit: float = 1.0
    """Of the grid's real numbers, in those of the source: only the network's input is counted in another one."""

    @property
    def step(self) -> np.float32:
        """Of the grid, in the source's numbers: what QuantizeLinear divides by."""
        return np.float32(self.unit * self.rounded_to.scale)

    def in_units(self, x: FloatArray) -> FloatArray:
        """Numbers of the source, float32, as real numbers of the grid, with QuantizeLinear's one rounding."""
        return x if self.unit == 1 else x.astype(np.float32) / self.step * np.float32(self.rounded_to.scale)

    @property
    def grid_or_table(self) -> GridOrTable:
        """`grid`, or the table before it."""
        return self.table or self.grid

    @property
    def rounded_to(self) -> QuantSpec:
        """The grid that `source` is rounded to: `grid`, or what the table takes."""
        return self.grid_or_table.rounded_to

    @property
    def reach(self) -> QuantSpec:
        """`grid` with the range that the codes can have."""
        return self.grid_or_table.reach

    @property
    def basis(self) -> tuple[float, ...] | None:
        """What a learned table is made from."""
        return None if self.table is None else self.table.basis

    @property
    def bits(self) -> int:
        """The width of the range, or of an index into the table's levels."""
        return self.grid_or_table.bits


def insert_activation_quantizer(
    graph: ir.Graph,
    value: ir.Value,
    spec: GridOrTable,
    *,
    only: Collection[ir.Node] | None = None,
    floats: Set[ir.Node] | None = None,
    replaces: ir.Node | None = None,
    suffix: str = "",
    meltable: bool = False,
    unit: float = 1.0,
    at_any_size: bool = False,
) -> None:
    """Put a quantizer behind `value`, for all its readers or for the nodes `only`.

    spec: its grid, or the table behind it. floats: of a value that is float anyway, the nodes that go on reading it as
    it is, as the graph's output does. replaces: a float activation to drop, which range or table computes. at_any_size:
    a table is looked up so, though sizes are fixed now.

    onnxruntime melts two quantizers in a row into one, which rounds otherwise. A Clip of the integers, though it cuts
    nothing, keeps apart one that is meant for `only`, or that reads another one; `meltable` says that it may go.
    """
    base = f"{value.name}/{suffix}" if suffix else f"{value.name}"
    uses = [(node, index) for node, index in value.uses() if node not in (floats or ()) and node in (only or (node,))]
    source = value if replaces is None else replaces.inputs[0]
    assert source is not None
    shape = value.shape
    before, after = spec.rounded_to, spec.grid
    scale, zero_point = _grid(graph, base, before)
    step = scale if unit == 1 else initializer(graph, f"{base}_step", np.float32(unit * before.scale))
    nodes = [ir.node("QuantizeLinear", [source, step, zero_point], name=f"{base}_quantize")]
    function = None if replaces is None else activation_of(replaces)
    if isinstance(function, Rectifier):
        write_bound(nodes[0], function.bound)
    stored = ir.TensorType(ir.DataType.from_numpy(before.dtype))
    name_value(nodes[-1].outputs[0], f"{base}_codes", stored, shape)
    if before.needs_clip or (not meltable and (only is not None or dequantizes(source.producer()))):
        nodes.append(clip_of_codes(graph, nodes[-1].outputs[0], before, base))
    if isinstance(spec, CodeTable):
        nodes += look_up_codes(graph, nodes[-1].outputs[0], spec, base, function, at_any_size=at_any_size)
        if after.needs_clip:
            nodes.append(clip_of_codes(graph, nodes[-1].outputs[0], after, f"{base}_level"))
        scale, zero_point = _grid(graph, f"{base}_level", after)
    nodes.append(ir.node("DequantizeLinear", [nodes[-1].outputs[0], scale, zero_point], name=f"{base}_dequantize"))
    output = nodes[-1].outputs[0]
    name_value(output, f"{base}_dequantized", ir.TensorType(ir.DataType.FLOAT), shape)
    producer = source.producer()
    if producer is None:
        graph.insert_before(graph[0], nodes)
    else:
        graph.insert_after(producer, nodes)
    for node, index in uses:
        node.replace_input_with(index, output)
    if value.is_graph_output() and only is None and floats is None:
        _move_graph_output(graph, value, output)
    if replaces is not None:
        graph.remove(replaces, safe=True)


def _grid(graph: ir.Graph, base: str, spec: QuantSpec) -> tuple[ir.Value, ir.Value]:
    """Scale and zero point."""
    scale = initializer(graph, f"{base}_scale", np.float32(spec.scale))
    return scale, initializer(graph, f"{base}_zero_point", spec.dtype.type(spec.zero_point))


def clip_of_codes(graph: ir.Graph, codes: ir.Value, spec: QuantSpec, base: str) -> ir.Node:
    """The Clip that says a range."""
    low = initializer(graph, f"{base}_min", np.uint8(spec.stored_min))
    high = initializer(graph, f"{base}_max", np.uint8(spec.stored_max))
    node = ir.node("Clip", [codes, low, high], name=f"{base}_clip")
    name_value(node.outputs[0], f"{base}_clipped", _UINT8, codes.shape)
    return node


def read_activation_quantizer(dequantize: ir.Node) -> ActivationQuantizer | None:
    """The quantizer that ends in this DequantizeLinear; None if it is a weight's or a bias's.

    ModelError names the node whose scale is no power of two, or whose form is another.
    """
    nodes, codes = quantizer_nodes(dequantize), dequantize.inputs[0]
    source = nodes[0].inputs[0] if nodes else None
    if codes is None or source is None:
        return None
    gather = look_up_of(nodes)
    function = read_bound(nodes[0])
    at = len(nodes) if gather is None else nodes.index(gather)
    # The input's own step may be any; its readers count in powers of two.
    is_input = source.is_graph_input() and gather is None
    step, zero_point = _read_step(nodes[0])
    rounded_to = _read_grid(dequantize if is_input else nodes[0], nodes[:at])
    if source.is_graph_input():
        check_zero_point(nodes[0], rounded_to)
    if is_input and zero_point != rounded_to.zero_point:
        raise ModelError(f"{describe(nodes[0])}: zero point {zero_point}, expected that of its DequantizeLinear")
    if gather is None:
        unit = step / rounded_to.scale if is_input else 1.0
        return ActivationQuantizer(source, codes, dequantize.outputs[0], rounded_to, None, function, unit)
    after = _read_grid(dequantize, nodes[at:])
    table = read_table(gather, rounded_to, after)
    return ActivationQuantizer(
        source, codes, dequantize.outputs[0], after, table, function or read_curve(gather, table)
    )


def check_zero_point(quantize: ir.Node, grid: QuantSpec) -> None:
    """ModelError where numbers are rounded with one that is odd: ties would go to odd. Copied codes have any."""
    if grid.zero_point % 2:
        raise ModelError(f"{describe(quantize)}: zero point {grid.zero_point}, expected an even one")


def quantizer_nodes(dequantize: ir.Node) -> list[ir.Node]:
    """The nodes of an activation's quantizer, from QuantizeLinear to before this node; none if it is a weight's."""
    found: list[ir.Node] = []
    value = dequantize.inputs[0]
    while value is not None and (node := value.producer()) is not None and _is_part(node):
        found.insert(0, node)
        value = data_input(node)
        if node.op_type == "QuantizeLinear":
            is_known = _FORM.fullmatch(" ".join(part.op_type for part in found)) is not None
            return found if is_known and constant_array(value) is None else []
    return []


def _is_part(node: ir.Node) -> bool:
    return node.op_type in _PARTS and node.domain in STANDARD_DOMAINS


def rounding_nodes(dequantize: ir.Node) -> list[ir.Node]:
    """Of these, the QuantizeLinear, and the Clip of what it rounds to where there is one: not what a table adds."""
    return [node for node in quantizer_nodes(dequantize)[:2] if node.op_type in {"QuantizeLinear", "Clip"}]


def data_input(node: ir.Node) -> ir.Value | None:
    """What a node of a quantizer works on: of a look-up the indices."""
    return input_value(node, 1 if is_look_up(node) else 0)


def _read_grid(node: ir.Node, behind: list[ir.Node]) -> QuantSpec:
    """The grid of a QuantizeLinear or DequantizeLinear, its range as a Clip among the nodes says it."""
    scale, zero = _read_step(node)
    bounds = [(_scalar(clip, 1), _scalar(clip, 2)) for clip in behind if clip.op_type == "Clip"]
    low, high = bounds[0] if bounds else (0, _STORED[require_constant(node, 2, "zero point").dtype])
    return QuantSpec(exponent_of(node, scale), low - zero, high - zero, zero)


def _read_step(node: ir.Node) -> tuple[float, int]:
    """Scale and zero point of a QuantizeLinear or DequantizeLinear."""
    scale, zero_point = constant_input(node, 1), constant_input(node, 2)
    known = scale is not None and scale.size == 1 and zero_point is not None and zero_point.dtype in _STORED
    if scale is None or zero_point is None or not known or not 0 < (step := float(scale.reshape(-1)[0])) < math.inf:
        raise ModelError(f"{describe(node)}: expected one constant scale and a zero point of uint8 or uint16")
    return step, int(zero_point.reshape(-1)[0])


def _scalar(node: ir.Node, index: int) -> int:
    array = constant_input(node, index)
    if array is None or array.size != 1:
        raise ModelError(f"{describe(node)}: expected constant bounds")
    return int(array.reshape(-1)[0])


def _move_graph_output(graph: ir.Graph, old: ir.Value, new: ir.Value) -> None:
    """Let `new` be the graph output, under the name that it has outside."""
    graph.outputs[list(graph.outputs).index(old)] = new
    old.name, new.name = f"{old.name}/float", old.name
