"""The rows that are drawn are those that a layer multiplies, and their moments those of all."""

import numpy as np
import onnx_ir as ir
import pytest

from qpipe.arith.spec import QuantSpec
from qpipe.calibration.row_moments import measure_rows
from qpipe.ops import product_of
from qpipe.ops.weight_layout import to_rows
from qpipe.runtime.session import open_session, run_batches
from support.networks import Network

FLOAT32_SUMS = 1e-4  # of products, against onnxruntime's in another order


def weighted(model: ir.Model) -> ir.Node:
    return next(node for node in model.graph if node.op_type in {"Conv", "Gemm", "MatMul"})


@pytest.mark.parametrize(
    ("groups", "attributes"),
    [
        (1, {}),
        (2, {"strides": [2, 1], "pads": [1, 0, 2, 1]}),
        (4, {"dilations": [2, 1], "pads": [2, 1, 0, 0]}),
    ],
)
def test_each_row_gives_an_output_of_the_convolution(groups: int, attributes: dict[str, list[int]]) -> None:
    n = Network(4, 7, 6)
    model = n.model(n.conv("x", 4, 8, groups=groups, **attributes))
    node, x = weighted(model), n.inputs(3)
    y = next(run_batches(open_session(model), [x]))[0]
    rows = product_of(node).drawn_rows(node, x, 50, np.random.default_rng(0))
    assert rows.shape == (groups, 50, 4 // groups * 9)
    weight = node.inputs[1]
    assert weight is not None
    assert weight.const_value is not None
    of_group = to_rows(node, weight.const_value.numpy()).reshape(groups, 8 // groups, -1)
    for g in range(groups):
        found = rows[g] @ of_group[g].T
        every = np.moveaxis(y, 1, -1).reshape(-1, groups, 8 // groups)[:, g]
        nearest = np.abs(found[:, None] - every[None]).max(axis=2).min(axis=1)
        assert nearest.max() <= FLOAT32_SUMS


def test_rows_of_a_gemm_are_its_inputs() -> None:
    n = Network(5)
    model = n.model(n.gemm("x", 5, 3))
    node, x = weighted(model), n.inputs(20)
    rows = product_of(node).drawn_rows(node, x, 30, np.random.default_rng(0))
    assert all((row == x).all(axis=1).any() for row in rows[0])


def test_moments_are_of_rounded_rows_and_means_of_both() -> None:
    n = Network(5)
    model = n.model(n.gemm("x", 5, 3))
    node, grid = weighted(model), QuantSpec.signed(8, 0)
    x = np.tile(np.array([[0.4, 1.6, -2.3, 0.0, 200.0]], np.float32), (4, 1))
    (found,) = measure_rows(model, {node: ("x", grid)}, x).values()
    rounded = np.array([0, 2, -2, 0, 127])
    assert np.array_equal(found.rounded_mean[0], rounded)
    assert found.mean[0] == pytest.approx(x[0])
    assert np.array_equal(found.second[0], np.outer(rounded, rounded))


def test_halves_are_of_every_other_sample() -> None:
    n = Network(2)
    model = n.model(n.gemm("x", 2, 3))
    x = np.array([[1, 0], [0, 3]] * 5, np.float32)
    (found,) = measure_rows(model, {weighted(model): ("x", QuantSpec.signed(8, 0))}, x).values()
    assert np.array_equal(found.halves[:, 0], [[[1, 0], [0, 0]], [[0, 0], [0, 9]]])
    assert np.array_equal(found.second[0], [[0.5, 0], [0, 4.5]])


def test_a_single_sample_is_both_halves() -> None:
    n = Network(2)
    model = n.model(n.gemm("x", 2, 3))
    x = np.array([[1, 2]], np.float32)
    (found,) = measure_rows(model, {weighted(model): ("x", QuantSpec.signed(8, 0))}, x).values()
    assert np.array_equal(found.halves[0], found.halves[1])
