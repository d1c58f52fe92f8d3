"""Tensors between layers with weights fill their grids, and the network stays the same function."""

import numpy as np
import onnx_ir as ir
import pytest

from passes.quantizing.calibrate_percentile import RANGE_KEY, CalibratePercentile, take_range
from passes.quantizing.fill_ranges import FillRanges
from passes.quantizing.fit_input import FitInput
from passes.quantizing.insert_quantizers import InsertQuantizers
from qpipe.calibration.pieces import Pieces
from qpipe.calibration.places import FACTORS
from qpipe.errors import ModelError
from qpipe.ir.graph.curve_units import units_to_nodes
from qpipe.ir.quantized.view import read_view
from qpipe.nodes import require_constant
from qpipe.ops import units_of
from qpipe.runtime.session import open_session, run_batches
from support.networks import Network

FLOAT32_SUMS = 1e-5
"""Of the outputs' size: factors that are no powers of two are rounded in each weight."""


def calibrated(scale: float, *, bound: float | None = None) -> tuple[ir.Model, np.ndarray, str]:
    """Two convolutions with BatchNormalization; the first one's output is `scale` times as large as drawn."""
    n = Network(3, 8, 8)
    gamma = np.full(4, scale, np.float32)
    normed = n.norm(n.conv("x", 3, 4), 4, gamma)
    inner = n.op("Relu", normed) if bound is None else n.relu6(normed, bound)
    model = n.model(n.head(n.op("Relu", n.norm(n.conv(inner, 4, 4), 4)), 4))
    x = n.inputs(16)
    CalibratePercentile(inputs=[x])(model)
    return model, x, inner


def range_of(model: ir.Model, name: str) -> tuple[float, float]:
    """Rounded, and what was observed in the unit that it has now."""
    value = next(v for node in model.graph for v in node.outputs if v.name == name)
    found = take_range(value)
    assert found.unrounded is not None
    return found.ymax, found.unrounded


@pytest.mark.parametrize("scale", [0.6, 1.0, 1.2, 1.7])
def test_a_range_ends_where_its_grid_does(scale: float) -> None:
    model, x, name = calibrated(scale)
    before = next(run_batches(open_session(model), [x]))[0]
    assert FillRanges(inputs=x)(model).modified
    ymax, observed = range_of(model, name)
    assert np.log2(ymax).is_integer()
    assert 0.9 * ymax < observed <= ymax  # two steps of FACTORS at most
    after = next(run_batches(open_session(model), [x]))[0]
    assert np.abs(after - before).max() <= FLOAT32_SUMS * np.abs(before).max()


@pytest.mark.parametrize("bound", [0.6, 1.1, 1.5])
def test_a_bound_is_the_last_code(bound: float) -> None:
    model, x, name = calibrated(1.3, bound=bound)
    before = next(run_batches(open_session(model), [x]))[0]
    FillRanges(inputs=x)(model)
    ymax, observed = range_of(model, name)
    clip = next(node for node in model.graph if node.op_type == "Clip")
    last = float(require_constant(clip, 2, "bound")) / (ymax / 256)
    assert 230 < last <= 255.5  # the factor itself, or one of FACTORS with which the drawn values err less
    assert observed <= ymax
    after = next(run_batches(open_session(model), [x]))[0]
    assert np.abs(after - before).max() <= FLOAT32_SUMS * np.abs(before).max()


@pytest.mark.parametrize("shift", [-1.5, 0.8, 1.5])
def test_a_lopsided_tensor_fills_its_grid_from_both_ends(shift: float) -> None:
    """The factor is chosen with the zero point: of an octave of factors one lets both ends reach the last codes."""
    n = Network(3, 8, 8)
    weight = n.floats(4, 3, 3, 3)
    bias = np.full(4, shift * np.sqrt(np.square(weight).sum() / 4), np.float32)
    inner = n.op("Conv", "x", n.constant(weight), n.constant(bias), pads=[1, 1, 1, 1])
    model, x = n.model(n.head(n.op("Relu", n.conv(inner, 4, 4)), 4)), n.inputs(16)
    CalibratePercentile(inputs=[x], percentile=100.0)(model)
    FillRanges(inputs=x, foresees=False)(model)
    found = take_range(next(v for node in model.graph for v in node.outputs if v.name == inner))
    assert found.zero_point is not None
    tensor = next(Pieces(model, [inner]).run(x))[0][inner]
    codes = tensor / (found.ymax / 256) + found.zero_point
    assert -0.5 <= codes.min() < 30  # a step of FACTORS is 9 % of 255, and a zero point is even
    assert 225 < codes.max() <= 255.5


def test_ranges_are_needed() -> None:
    model, x, name = calibrated(1.0)
    take_range(next(v for node in model.graph for v in node.outputs if v.name == name))
    with pytest.raises(ModelError, match="has no observed range"):
        FillRanges(inputs=x)(model)


def test_a_tensor_of_zeros_keeps_its_range() -> None:
    model, x, _ = calibrated(1.0)
    for key in ("c1", "c2"):
        assert key in {str(name) for name in model.graph.initializers}
    n = Network(3, 8, 8)
    dead = n.op("Relu", n.op("Conv", "x", n.constant(np.zeros((4, 3, 3, 3), np.float32))))
    zeros = n.model(n.conv(dead, 4, 4, bias=True))
    CalibratePercentile(inputs=[x])(zeros)
    FillRanges(inputs=x)(zeros)
    value = next(v for node in zeros.graph for v in node.outputs if v.name == dead)
    assert take_range(value).ymax == 0


def test_factors_are_within_an_octave() -> None:
    assert FACTORS[0] == 1
    assert FACTORS[-1] < 2


def test_ranges_have_room_for_others_where_samples_are_unlike() -> None:
    ends = []
    for foresees in (False, True):
        model, x, name = calibrated(1.0)
        loud = x * np.exp(np.random.default_rng(1).normal(0, 0.7, (len(x), 1, 1, 1))).astype(np.float32)
        for value in (*model.graph.inputs, *(v for node in model.graph for v in node.outputs)):
            value.metadata_props.pop(RANGE_KEY, None)
        CalibratePercentile(inputs=[loud])(model)
        FillRanges(inputs=loud, foresees=foresees)(model)
        ymax, _ = range_of(model, name)
        tensors, _ = next(Pieces(model, [name]).run(loud))
        ends.append(ymax / tensors[name].max())
    assert 0.95 < ends[0] < 1.1  # its peak is beyond the percentile, and the factor up to two of FACTORS below the end
    assert ends[1] > 1.2


def test_values_are_those_that_quantizers_see_where_an_input_has_a_unit() -> None:
    """They read what the input's quantizer gives, in its unit: with or without one the factors are the same."""
    found = []
    for fits in (False, True):
        n = Network(3, 8, 8)
        inner = n.op("Relu", n.norm(n.conv("x", 3, 4, (1, 1)), 4))
        model, x = n.model(n.head(n.op("Relu", n.norm(n.conv(inner, 4, 4), 4)), 4)), n.inputs(64)
        x = (np.random.default_rng(0).integers(0, 256, x.shape) / 255 * 3 - 0.9).astype(np.float32)
        CalibratePercentile(inputs=[x])(model)
        if fits:
            assert FitInput(inputs=[x])(model).modified
        FillRanges(inputs=x)(model)
        found.append(range_of(model, inner))
    assert found[0] == pytest.approx(found[1], rel=FLOAT32_SUMS)


@pytest.mark.parametrize(("function", "ends"), [("Tanh", 4.0), ("Sigmoid", 8.0), ("SiLU", 32.0), ("Softplus", 32.0)])
def test_a_range_ends_where_the_curve_that_reads_it_gets_flat(function: str, ends: float) -> None:
    """Beyond it the curve's own steps tell nothing apart; of one that goes on every number counts."""
    n = Network(3, 8, 8)
    inner = n.conv("x", 3, 4, (1, 1), bias=True)
    loud = n.op("Conv", inner, n.constant(n.floats(4, 4, 1, 1, scale=4.0)), n.constant(n.floats(4)))
    curved = n.op("Mul", loud, n.op("Sigmoid", loud)) if function == "SiLU" else n.op(function, loud)
    model, x = n.model(n.head(curved, 4)), n.inputs(32)
    CalibratePercentile(inputs=[x])(model)
    FillRanges(inputs=x)(model)
    (node,) = (node for node in model.graph if node.op_type == function)
    found, units = take_range(node.outputs[0]), units_of(node)
    assert found.unrounded is not None
    assert 16 < found.unrounded * units.inner < 32
    assert ends / 2**0.5 <= found.ymax * units.inner <= ends * 2**0.5


@pytest.mark.parametrize("function", ["SiLU", "Softplus", "HardSwish", "Tanh"])
@pytest.mark.parametrize("scale", [0.7, 1.0, 1.4])
def test_what_a_curve_reads_and_gives_fill_their_grids(function: str, scale: float) -> None:
    n = Network(3, 8, 8)
    loud = n.op("Conv", "x", n.constant(n.floats(4, 3, 1, 1, scale=2 * scale)), n.constant(n.floats(4)))
    curved = n.op("Mul", loud, n.op("Sigmoid", loud)) if function == "SiLU" else n.op(function, loud)
    model, x = n.model(n.head(curved, 4)), n.inputs(64)
    CalibratePercentile(inputs=[x])(model)
    before = next(run_batches(open_session(model), [x]))[0]
    FillRanges(inputs=x)(model)
    runs = model.clone()
    units_to_nodes(runs)
    after = next(run_batches(open_session(runs), [x]))[0]
    assert np.abs(after - before).max() <= FLOAT32_SUMS * np.abs(before).max()
    InsertQuantizers()(model)
    (table,) = (q.table for layer in read_view(model).layers if (q := layer.quantizer) is not None and q.table)
    assert max(table.reached) - min(table.reached) >= 0.8 * 255  # a step of FACTORS is 9 %, and weights count too
