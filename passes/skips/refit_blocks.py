"""Strip skip connections by algebra, without training: refit what is left to give what the residual block gave.

A residual block gives, before its activation, `t = main(x) + skip(x)`. Without its skip its last layer, of weights W
and bias b, is refitted by ridge least squares (see `qpipe.calibration.least_squares`), on some images without labels:

    min over W, b of  E |W a + b - t|^2 + lambda |W|^2

    a: what the last layer multiplies, in the network whose earlier skips are gone already
    t: the residual network's, on its own tensors

so each block makes good what those before it changed. That x can be had from a at all, a share of the channels on the
main path is given up for it: rows of the layers before the last become Dirac kernels, which pass on the input's
channels of the largest variance in the place of those that contribute least to the sums, `|W[:, c]|^2 var(a[c])`
(see `qpipe.ir.graph.carried_input`). How large a share, each block finds for itself: half of the samples fit, and the
other half judge. Statistics of a BatchNormalization behind the refitted layer are those of its new sums.

Shapes stay, so the network costs what it cost, less its skips. A block whose main path doesn't end in the sums of a
Conv or Gemm is cut as `strip-skips` cuts it; where something else than such layers with Relus lies on the path, it is
refitted without giving channels up.

Ours. That a Dirac kernel carries a skip exactly is Meng et al. 2021, *RMNet*; here nothing is added to carry it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Final

import numpy as np
import onnx_ir as ir

from passes.skips.strip_skips import chosen_blocks, strip_blocks
from qpipe import progress
from qpipe.arith.namespace import Float64Array, FloatArray, IntArray
from qpipe.calibration.least_squares import Fitted, NormalEquations
from qpipe.calibration.moments import Moments, moments
from qpipe.calibration.pieces import Pieces
from qpipe.calibration.shard import ALONE, Shard
from qpipe.data.inputs import Inputs, count_of, part_of
from qpipe.errors import DataError
from qpipe.ir.graph.affine import batch_norm_of, unit_ratio
from qpipe.ir.graph.carried_input import Carried, MainPath, carry, importance, main_path, set_bias
from qpipe.ir.graph.layers import Layer
from qpipe.ir.graph.residual import ResidualBlock, find_blocks
from qpipe.nodes import float_attribute, input_value, require_constant, set_constant_input
from qpipe.ops import product_of
from qpipe.ops.product import Places
from qpipe.ops.weight_layout import to_rows, to_weight

SHARES: Final = (0.0, 0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 1.0)
"""Of the input's channels, that may be carried."""
ROWS: Final = 24
"""Times what a row sums over, that are drawn; from FEWEST to MOST."""
FEWEST: Final = 2**13
MOST: Final = 2**16
AT_ONCE: Final = 32
"""Images that run at a time."""
FIRST: Final = 0.25
"""The share that the first block begins to look from."""


@dataclass(frozen=True, kw_only=True)
class RefitBlocks(ir.passes.InPlacePass):
    """Strip the residual blocks whose names match from a normalized float network, and refit them on `inputs`.

    blocks: as of `strip-skips`. inputs: float32 `[N, C, H, W]`, or arrays by name.
    """

    name: ClassVar[str] = "refit-blocks"

    blocks: str = "*"
    inputs: Any = field(default=(), repr=False, metadata={"argument": False})
    shard: Shard = field(default=ALONE, repr=False, metadata={"argument": False})

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Refit and strip one after the other; LoweringError, before anything is changed, where one can't be.

        Raises DataError without inputs.
        """
        if not count_of(self.inputs):
            raise DataError("calibration data: no sample, expected some to refit blocks on")
        original = model.clone()
        called = {str(block.add.name): block.name for block in chosen_blocks(model.graph, self.blocks)}
        position = SHARES.index(FIRST)
        for name in progress.track(list(called), "refitting blocks"):
            refit = _Refit(original, name, self.inputs, self.shard)
            found = refit.best(model, position)
            if found is not None:
                position = found.position
                found.apply(model, name)
            strip_blocks(model, [replace(_block(model, name), name=called[name])])
        return ir.passes.PassResult(model, True)


@dataclass(frozen=True)
class _Trial:
    """A block with so large a share (of SHARES) of its input carried, refitted, and the error on the other half."""

    position: int
    given_up: tuple[IntArray, ...]
    carried: Carried | None
    fitted: Fitted
    error: float

    def apply(self, model: ir.Model, name: str) -> None:
        """Change the block's weights."""
        path = _path(model, name)
        assert path is not None
        if self.carried is not None:
            carry(path, self.carried, self.given_up)
        write_sums(path.last, self.fitted)


class _Refit:
    """Of the block that ends in the Add of this name.

    What the residual network gives at some places is read once; what the plain one has there, for each share.
    """

    def __init__(self, original: ir.Model, name: str, inputs: Inputs, shard: Shard) -> None:
        self._name, self._inputs, self._shard = name, inputs, shard
        self._target = Pieces(original, [str(_block(original, name).add.outputs[0].name)])
        self._known: dict[int, tuple[Places, FloatArray]] = {}

    def best(self, model: ir.Model, position: int) -> _Trial | None:
        """That share which errs least, looked for from this one on; None of a block that can't be refitted."""
        path = _path(model, self._name)
        if path is None:
            return None
        if path.before is None:
            return self._tried(model, 0, [])
        seen = self._statistics(model, path)
        best = self._tried(model, position, seen)
        tried = {position}
        for step in (-1, 1):
            while 0 <= (after := best.position + step) < len(SHARES) and after not in tried:
                tried.add(after)
                other = self._tried(model, after, seen)
                if other.error >= best.error:
                    break
                best = other
        return best

    def _statistics(self, model: ir.Model, path: MainPath) -> list[_Statistics]:
        """Of the block's input, and of what the reader of each stage reads."""
        values = [str(layer.inputs[0].name) for layer in (path.stages[0][0], *path.readers)]
        axis = product_of(path.last.node).channel_axis
        found = Pieces(model, values).merged(self._inputs, lambda _, x: _Statistics.of(np.moveaxis(x, axis, 1)))
        return [found[name] for name in values]

    def _tried(self, model: ir.Model, position: int, seen: list[_Statistics]) -> _Trial:
        trial, carried = model.clone(), None
        given_up: tuple[IntArray, ...] = ()
        path = _path(trial, self._name)
        assert path is not None
        if seen and (wanted := _chosen(path, seen, SHARES[position])) is not None:
            is_carried = carry(path, *wanted)
            carried, given_up = wanted if is_carried else (None, ())
        first, second = self._equations(trial, path.last)
        error = second.error(first.solve())
        return _Trial(position, given_up, carried, first.merged(second).solve(), error)

    def _equations(self, model: ir.Model, last: Layer) -> tuple[NormalEquations, NormalEquations]:
        """Of every other sample, and of the rest."""
        op, pieces = product_of(last.node), Pieces(model, [str(last.inputs[0].name)])
        width = to_rows(last.node, require_constant(last.node, 1, "weight")).shape[1]
        share = min(max(ROWS * width, FEWEST), MOST) / count_of(self._inputs)
        halves: list[NormalEquations] = []
        for index, batch in enumerate(_in_parts(self._inputs)):
            x = _whole(pieces, batch)
            if index not in self._known:
                rng = np.random.default_rng(index)
                places = op.drawn_places(last.node, x, math.ceil(share * count_of(batch)), rng)
                self._known[index] = places, op.results_at(_whole(self._target, batch), places)
            places, targets = self._known[index]
            halves = halves or [NormalEquations.none(width, targets.shape[1]) for _ in range(2)]
            halves[index % 2].add(op.rows_at(last.node, x, places)[0], targets)
        first, second = halves if halves[-1].count else (halves[0], halves[0])
        return first.shared(self._shard), second.shared(self._shard)


@dataclass(frozen=True)
class _Statistics:
    """Of each channel: moments, least and largest number."""

    moments: Moments
    low: Float64Array
    high: Float64Array

    @classmethod
    def of(cls, x: FloatArray) -> _Statistics:
        """x: `[N, C, ...]`."""
        axes = (0, *range(2, x.ndim))
        return cls(moments(x), x.min(axis=axes).astype(np.float64), x.max(axis=axes).astype(np.float64))

    def merged(self, other: _Statistics) -> _Statistics:
        """Of both together."""
        low, high = np.minimum(self.low, other.low), np.maximum(self.high, other.high)
        return _Statistics(self.moments.merged(other.moments), low, high)


def _chosen(path: MainPath, seen: list[_Statistics], share: float) -> tuple[Carried, tuple[IntArray, ...]] | None:
    """The input's channels that are carried, and those of each stage that are given up for them; None: no channel."""
    source, *stages = seen
    widths = [len(each.low) for each in stages]
    count = min(round(share * len(source.low)), int((source.moments.variance > 0).sum()), *(w - 1 for w in widths))
    if count < 1:
        return None
    channels = np.argsort(-source.moments.variance, kind="stable")[:count]
    carried = Carried(
        channels,
        source.moments.mean[channels],
        source.moments.variance[channels],
        source.low[channels],
        source.high[channels],
    )
    importances = map(importance, path.readers, (each.moments.variance for each in stages))
    return carried, tuple(np.argsort(each, kind="stable")[:count] for each in importances)


def write_sums(layer: Layer, fitted: Fitted) -> None:
    """Give a layer these weights and sums; a BatchNormalization gets their statistics, as by `restore-batch-norm`."""
    weight = require_constant(layer.node, 1, "weight")
    ratio = np.ones(len(fitted.bias))
    if layer.batch_norm is not None:
        ratio = unit_ratio(fitted.weight, fitted.mean, fitted.variance)
        epsilon = float_attribute(layer.batch_norm, "epsilon", 1e-5)
        for index, value in enumerate(batch_norm_of(fitted.mean, fitted.variance, fitted.bias, ratio, epsilon), 1):
            set_constant_input(layer.batch_norm, index, value)
    if layer.batch_norm is None:
        set_bias(layer.node, fitted.bias)
    elif input_value(layer.node, 2) is not None:
        set_bias(layer.node, np.zeros(len(fitted.bias)))
    rows = (fitted.weight * ratio[:, None]).astype(np.float32)
    set_constant_input(layer.node, 1, to_weight(layer.node, rows, weight.shape))


def _path(model: ir.Model, name: str) -> MainPath | None:
    return main_path(model.graph, _block(model, name))


def _block(model: ir.Model, name: str) -> ResidualBlock:
    """That which ends in the Add of this name."""
    return next(block for block in find_blocks(model.graph) if block.add.name == name)


def _in_parts(inputs: Inputs) -> Iterator[Inputs]:
    for begin in range(0, count_of(inputs), AT_ONCE):
        yield part_of(inputs, slice(begin, begin + AT_ONCE))


def _whole(pieces: Pieces, batch: Inputs) -> FloatArray:
    """The tensor that is looked at, of all samples of a batch."""
    return np.concatenate([array for tensors, _ in pieces.run(batch) for array in tensors.values()])
