import numpy as np
import onnx_ir as ir
import pytest

from passes.normalize import normalize
from passes.rewrites.constant_reshape import ConstantReshape
from qpipe.nodes import constant_input
from support.networks import build, integers
from support.run import run_as_written

FLATTEN = """(float[N,4,6,6] x) => (float[N,144] y) {
    shape = Shape <start = 0, end = 1> (x)
    target = Concat <axis = 0> (shape, rest)
    y = Reshape(x, target)
}"""


def flatten() -> ir.Model:
    return build(FLATTEN, rest=np.array([144]))


def reshape_of(model: ir.Model) -> ir.Node:
    (node,) = [node for node in model.graph if node.op_type == "Reshape"]
    return node


def test_a_computed_shape_becomes_constant_and_the_result_stays() -> None:
    model, x = flatten(), integers(3, 4, 6, 6)
    (expected,) = run_as_written(model, x=x)
    assert ConstantReshape()(model).modified
    assert constant_input(reshape_of(model), 1).tolist() == [-1, 144]  # type: ignore[union-attr]
    np.testing.assert_array_equal(run_as_written(model, x=x)[0], expected)
    assert not ConstantReshape()(model).modified


def test_normalization_leaves_the_reshape_alone() -> None:
    model = flatten()
    normalize(model)
    assert [node.op_type for node in model.graph] == ["Reshape"]


@pytest.mark.parametrize("output", ["float[N,M]", "float[N,0]"], ids=["two unknown", "empty"])
def test_what_does_not_follow_from_the_others_stays(output: str) -> None:
    model = build(
        f"(float[N,M] x, int64[2] target) => ({output} y) {{ y = Reshape(x, target) }}",
    )
    assert not ConstantReshape()(model).modified


def test_a_constant_shape_stays() -> None:
    model = build("(float[N,4] x) => (float[N,2,2] y) { y = Reshape(x, target) }", target=np.array([0, 2, 2]))
    assert not ConstantReshape()(model).modified
    assert constant_input(reshape_of(model), 1).tolist() == [0, 2, 2]  # type: ignore[union-attr]
