"""Take skips out without changing what the network computes: the input rides through the main path in more channels.

A residual block gives, before its activation, `W2 * relu(W1 * x + b1) + b2 + S x`. Where x is never negative, a Dirac
kernel D of stride and place of W1 keeps it as it is, `relu(D x) = D x`, so that

    W1' = [W1; D],  b1' = [b1; 0]      W2' = [W2, D_S]      W2' * relu(W1' * x + b1') + b2 = W2 * relu(...) + b2 + S x

D_S are Dirac kernels as well, which put the carried channels where the skip puts them: an identity, Slice and Pad, or a
1x1 convolution with its stride, all of them maps S of channels at some pixels. No Add is left. Any number of layers
with weights may lie on the path, depthwise ones too; where the last is the only one nothing is carried, and S is added
to its weights. A block is refused by name where the path does anything else, where x may be negative or above a bound
of the path, and where skip and path look at other pixels: what was built is compared with the block on random numbers.

It costs as many channels within the block as it has inputs: about twice the products of a basic block. For hardware
without an Add, and as a start from which channels are taken away.

A BatchNormalization behind carried channels gets their statistics, so that training on those of the batch begins with
the same function; that behind the last layer goes into its weights, and comes back with those of the sums. Inputs are
run for these alone: a network without BatchNormalizations needs none.

Source: Meng et al. 2021, *RMNet: Equivalently Removing Residual Connection from Networks*, section 3 ("reserving" and
"merging"), where W1 and W2 are the only layers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Final

import numpy as np
import onnx_ir as ir

from passes.skips.refit_blocks import write_sums
from passes.skips.strip_skips import chosen_blocks, strip_blocks
from qpipe import progress
from qpipe.arith.namespace import Float64Array, FloatArray
from qpipe.calibration.least_squares import Fitted
from qpipe.calibration.moments import Moments, moments
from qpipe.calibration.pieces import Pieces
from qpipe.calibration.shard import ALONE, Shard
from qpipe.data.inputs import count_of
from qpipe.errors import DataError, LoweringError
from qpipe.ir.graph.affine import read_affine
from qpipe.ir.graph.carried_input import Carried, MainPath, carry, main_path
from qpipe.ir.graph.ending import between
from qpipe.ir.graph.residual import ResidualBlock, find_blocks
from qpipe.ir.graph.rewrite import only_reader
from qpipe.ir.graph.widen import widen
from qpipe.nodes import require_constant, static_shape
from qpipe.ops import Rectifier, Role, activation_of, op_of, product_of
from qpipe.ops.weight_layout import to_rows
from qpipe.runtime.session import open_session, run_feeds

SAME: Final = 1e-3
"""Of the largest number: more than float32 sums in another order differ, and less than other pixels do."""
AT_ONCE: Final = 2**22
"""Numbers that probe a skip at a time."""
SIDE: Final = 16
"""Pixels of an image whose size is open."""


@dataclass(frozen=True, kw_only=True)
class CarrySkips(ir.passes.InPlacePass):
    """Take out the skips of the residual blocks whose names match, of a normalized float network.

    blocks: as of `strip-skips`. inputs: float32 `[N, C, H, W]`, or arrays by name, for the statistics.
    """

    name: ClassVar[str] = "carry-skips"

    blocks: str = "*"
    inputs: Any = field(default=(), repr=False, metadata={"argument": False})
    shard: Shard = field(default=ALONE, repr=False, metadata={"argument": False})

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rewrite all of them, or raise LoweringError with a block's name before anything is changed.

        Raises DataError where there are BatchNormalizations and no inputs.
        """
        chosen = chosen_blocks(model.graph, self.blocks)
        trial = model.clone()
        seen = self._statistics(model, chosen)
        refused: list[str] = []
        for block in progress.track(chosen, "carrying skips"):
            try:
                _rewrite(trial, str(block.add.name), seen)
            except _NotCarried as error:
                refused.append(f"block '{block.name}': {error}")
        if refused:
            more = f" (and {len(refused) - 1} more such blocks)" if len(refused) > 1 else ""
            raise LoweringError(f"strip 'exact': {refused[0]}{more}; --blocks names others")
        for block in chosen:
            _rewrite(model, str(block.add.name), seen, is_checked=True)
            strip_blocks(model, [replace(_block(model, str(block.add.name)), name=block.name)])
        return ir.passes.PassResult(model, True)

    def _statistics(self, model: ir.Model, blocks: Sequence[ResidualBlock]) -> dict[str, Moments]:
        """Of what blocks begin with, and of their sums, where a BatchNormalization lies between."""
        axes: dict[str, int] = {}
        for block in blocks:
            path = main_path(model.graph, block)
            if path is not None and any(layer.batch_norm for layer in (*(path.before or ()), path.last)):
                axis = product_of(path.last.node).channel_axis
                axes |= {str(value.name): axis for value in (block.start, block.add.outputs[0])}
        if not axes:
            return {}
        if not count_of(self.inputs):
            raise DataError("calibration data: no sample, expected some for the statistics of normalizations")
        found = Pieces(model, list(axes)).merged(self.inputs, lambda name, x: moments(np.moveaxis(x, axes[name], 1)))
        # Processes run the same images, but another machine may add up in another order.
        return {name: Moments(*self.shard.largest(each.table)) for name, each in found.items()}


class _NotCarried(Exception):  # noqa: N818
    """Why a block's skip can't be carried, in words that follow its name."""


def _rewrite(model: ir.Model, name: str, seen: dict[str, Moments], *, is_checked: bool = False) -> None:
    """Let the main path give what the block that ends in this Add gives, which stays."""
    block = _block(model, name)
    path = main_path(model.graph, block)
    _check_path(block, path)
    assert path is not None
    matrix, offset = _skip_map(model, block)
    start, total, end = (str(value.name) for value in (block.start, block.add.outputs[0], block.main))
    before = None if is_checked else between(model, start, total)
    _build(path, matrix, offset, seen.get(start), seen.get(total))
    if before is not None and not _agree(before, between(model, start, end), _shape(block.start)):
        raise _NotCarried("its skip and its main path look at other pixels, expected the same ones")


def _check_path(block: ResidualBlock, path: MainPath | None) -> None:
    """Raise _NotCarried where the algebra doesn't hold."""
    if path is None or (path.before is None and path.last.inputs[0] is not block.start):
        raise _NotCarried(
            "its main path is no chain of Conv, Gemm, BatchNormalization and Relu that ends in sums, expected one"
        )
    for layer in path.before or ():
        if only_reader(layer.output) is None:
            raise _NotCarried(f"something else reads '{layer.output.name}' too, expected its main path alone")
    if path.before and path.is_cut:
        low, high = _reach(block.start)
        if low < 0:
            raise _NotCarried(f"it begins with '{block.start.name}', which may be negative, expected a Relu's result")
        if high > path.bound:
            raise _NotCarried(f"its main path cuts off what is above {path.bound:g}, expected that its input is below")


def _reach(value: ir.Value) -> tuple[float, float]:
    """Between which numbers a value lies, as far as its producer tells."""
    node = value.producer()
    if node is None:
        return -math.inf, math.inf
    function = activation_of(node)
    if isinstance(function, Rectifier):
        return 0.0, function.bound
    op = op_of(node)
    if op.role in {Role.POOL, Role.CARRY}:
        reaches = [_reach(operand) for operand in op.operands(node)]
        return min(0.0, *(low for low, _ in reaches)), max(high for _, high in reaches)
    return -math.inf, math.inf


def _skip_map(model: ir.Model, block: ResidualBlock) -> tuple[Float64Array, Float64Array]:
    """S `[C_out, C_in]` and what it adds, `[C_out]`; _NotCarried where pixels don't have the same."""
    shape = _shape(block.start)
    axis = product_of(block.layers[0]).channel_axis % len(shape)
    channels = shape[axis]
    if block.skip is block.start:
        return np.eye(channels), np.zeros(channels)
    session = open_session(between(model, str(block.start.name), str(block.skip.name)))
    per = max(AT_ONCE // math.prod(shape[1:]), 1)
    found: list[FloatArray] = []
    for begin in range(0, channels + 1, per):
        ones = np.eye(channels + 1, channels, k=-1, dtype=np.float32)[begin : begin + per]
        along = np.moveaxis(np.broadcast_to(ones, (*shape[1:axis], *shape[axis + 1 :], *ones.shape)), -2, 0)
        probe = np.ascontiguousarray(np.moveaxis(along, -1, axis))
        (given,) = run_feeds(session, {session.get_inputs()[0].name: probe})
        flat = np.moveaxis(given, axis, -1).reshape(len(given), -1, given.shape[axis])
        if np.abs(flat - flat[:, :1]).max() > SAME * max(float(np.abs(flat).max()), 1e-30):
            raise _NotCarried("its skip treats pixels at the border otherwise, expected one map of channels")
        found.append(flat[:, 0])
    rows = np.concatenate(found).astype(np.float64)
    return (rows[1:] - rows[:1]).T, rows[0]


def _build(
    path: MainPath, matrix: Float64Array, offset: Float64Array, start: Moments | None, total: Moments | None
) -> None:
    """Carry what the matrix `[C_out, C_in]` reads through the path, and merge it into the last layer.

    start, total: of the block's input and of its sum, where BatchNormalizations are to know them.
    """
    channels = np.flatnonzero(matrix.any(axis=0))
    last, count = path.last, len(channels) if path.before else 0
    affine = read_affine(last, len(matrix))
    before = require_constant(last.node, 1, "weight").shape
    first = before[1 - product_of(last.node).output_axis(last.node)]
    if path.before:
        layers = [layer for stage in path.stages for layer in stage]
        given_up = [_width(stage[0].node) + np.arange(count) for stage in path.stages]
        for index, layer in enumerate(layers):
            widen(layer, count, count if index else 0)
        widen(last, 0, count)
        mean, variance = (np.zeros(len(matrix[0])), np.ones(len(matrix[0])))
        if start is not None:
            mean, variance = start.mean, start.variance
        zeros = np.zeros(count)
        carried = Carried(channels, mean[channels], variance[channels], zeros, zeros)
        if not carry(path, carried, given_up):
            raise _NotCarried(
                "groups of channels keep its input apart, expected layers of one group, and depthwise ones behind them"
            )
    product = product_of(last.node)
    weight = require_constant(last.node, 1, "weight")
    outputs = np.repeat(np.arange(len(matrix)), len(channels))
    inputs = np.tile(first + np.arange(count) if path.before else channels, len(matrix))
    merged = product.passing(last.node, np.zeros_like(weight), outputs, inputs, matrix[:, channels].reshape(-1))
    assert merged is not None  # it has one group
    rows = affine.k[:, None] * to_rows(last.node, weight.astype(np.float64))
    rows += to_rows(last.node, merged.astype(np.float64))
    bias = affine.beta - affine.k * affine.mean + offset
    none = np.zeros(len(bias))
    sums, variance = (none, none) if total is None else (total.mean - bias, total.variance)
    write_sums(last, Fitted(rows, bias, sums, variance))


def _width(node: ir.Node) -> int:
    return int(require_constant(node, 1, "weight").shape[product_of(node).output_axis(node)])


def _agree(one: ir.Model, other: ir.Model, shape: tuple[int, ...]) -> bool:
    """Whether both give the same of numbers that a Relu may give."""
    x = np.random.default_rng(0).random((2, *shape[1:]), dtype=np.float32)
    a, b = (run_feeds(s, {s.get_inputs()[0].name: x})[0] for s in map(open_session, (one, other)))
    return a.shape == b.shape and bool(np.abs(a - b).max() <= SAME * np.abs(a).max())


def _shape(value: ir.Value) -> tuple[int, ...]:
    """What probes it."""
    shape = static_shape(value)
    if shape is None:
        raise _NotCarried(f"'{value.name}' has no shape, expected a known one")
    return tuple(SIDE if size is None else size for size in shape)


def _block(model: ir.Model, name: str) -> ResidualBlock:
    """That which ends in the Add of this name."""
    return next(block for block in find_blocks(model.graph) if block.add.name == name)
