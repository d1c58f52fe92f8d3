"""What a product's results multiply, where they stand, and weights that pass channels on."""

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qpipe.nodes import require_constant, set_constant_input
from qpipe.ops import product_of
from qpipe.ops.weight_layout import to_rows
from support.networks import Network
from support.run import run

FLOAT32_SUMS = 1e-4  # of products, against onnxruntime's in another order


def product(model: ir.Model) -> ir.Node:
    return next(node for node in model.graph if node.op_type in {"Conv", "Gemm", "MatMul"})


@given(
    st.sampled_from([[0, 0, 0, 0], [1, 1, 1, 1], [2, 0, 1, 3]]),
    st.sampled_from([[1, 1], [2, 1], [2, 2]]),
    st.sampled_from([[1, 1], [1, 2]]),
)
def test_rows_give_the_results_at_their_places(pads: list[int], strides: list[int], dilations: list[int]) -> None:
    n = Network(3, 7, 8)
    model = n.model(n.conv("x", 3, 4, pads=pads, strides=strides, dilations=dilations))
    node, x = product(model), n.inputs(3)
    op, y = product_of(node), run(model, x)[0]
    places = op.drawn_places(node, x, 40, np.random.default_rng(0))
    rows = to_rows(node, require_constant(node, 1, "weight"))
    np.testing.assert_allclose(op.rows_at(node, x, places)[0] @ rows.T, op.results_at(y, places), atol=FLOAT32_SUMS)


@pytest.mark.parametrize("transposed", [False, True])
def test_rows_of_a_gemm_give_its_results(transposed: bool) -> None:
    n = Network(5)
    model = n.model(n.gemm("x", 5, 3, bias=False, transposed=transposed))
    node, x = product(model), n.inputs(20)
    op, y = product_of(node), run(model, x)[0]
    places = op.drawn_places(node, x, 40, np.random.default_rng(0))
    rows = to_rows(node, require_constant(node, 1, "weight"))
    np.testing.assert_allclose(op.rows_at(node, x, places)[0] @ rows.T, op.results_at(y, places), atol=FLOAT32_SUMS)


@pytest.mark.parametrize(
    ("attributes", "pixels"),
    [
        ({}, np.s_[:, :]),
        ({"strides": [2, 2]}, np.s_[::2, ::2]),
        ({"dilations": [2, 2], "pads": [2, 2, 2, 2]}, np.s_[:, :]),
        ({"strides": [2, 2], "pads": [0, 0, 1, 1]}, np.s_[::2, ::2]),
        ({"pads": [0, 0, 0, 0]}, np.s_[1:-1, 1:-1]),
    ],
)
def test_outputs_that_pass_an_input_on(attributes: dict[str, list[int]], pixels: tuple[slice, slice]) -> None:
    n = Network(3, 8, 8)
    model = n.model(n.conv("x", 3, 5, **attributes))
    node, x = product(model), n.inputs(2)
    before, weight = run(model, x)[0], require_constant(node, 1, "weight")
    outputs, inputs = np.array([4, 1]), np.array([0, 2])
    found = product_of(node).passing(node, weight, outputs, inputs, np.array([1.0, -0.5]))
    assert found is not None
    set_constant_input(node, 1, found.astype(np.float32))
    after = run(model, x)[0]
    np.testing.assert_array_equal(after[:, 4], x[:, 0, *pixels])
    np.testing.assert_array_equal(after[:, 1], -0.5 * x[:, 2, *pixels])
    np.testing.assert_array_equal(after[:, [0, 2, 3]], before[:, [0, 2, 3]])


@pytest.mark.parametrize("transposed", [False, True])
def test_outputs_of_a_gemm_that_pass_an_input_on(transposed: bool) -> None:
    n = Network(5)
    model = n.model(n.gemm("x", 5, 3, bias=False, transposed=transposed))
    node, x = product(model), n.inputs(4)
    weight = require_constant(node, 1, "weight")
    found = product_of(node).passing(node, weight, np.array([2]), np.array([4]), np.array([2.0]))
    assert found is not None
    assert found.shape == weight.shape
    set_constant_input(node, 1, found)
    np.testing.assert_array_equal(run(model, x)[0][:, 2], 2 * x[:, 4])


def test_a_group_passes_its_own_channels_alone() -> None:
    n = Network(4, 5, 5)
    for groups, outputs, inputs, passes in ((2, 0, 0, False), (4, 1, 1, True), (4, 1, 2, False)):
        model = n.model(n.conv("x", 4, 4, groups=groups))
        node = next(node for node in model.graph if node.op_type == "Conv" and node.outputs[0].is_graph_output())
        weight = require_constant(node, 1, "weight")
        found = product_of(node).passing(node, weight, np.array([outputs]), np.array([inputs]), np.ones(1))
        assert (found is not None) == passes
